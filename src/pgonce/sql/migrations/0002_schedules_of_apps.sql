-- Several apps may share a database: which jobs a schedule was written together with, as a digest of their names.
alter table job_schedules add column if not exists app text;
