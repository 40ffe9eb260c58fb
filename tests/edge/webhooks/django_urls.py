"""The urls of the Django site of test_frameworks."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

endpoint: Any = None


@csrf_exempt
@require_POST
def stripe_webhook(request: HttpRequest) -> HttpResponse:
    response = endpoint.handle(request.body, request.headers)
    return HttpResponse(response.body, status=response.status, headers=response.headers)


urlpatterns = [path("webhooks/stripe", stripe_webhook)]
