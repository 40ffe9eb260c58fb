-- The tables of the example application. Plain ones: pgonce asks nothing of the tables that handlers write to.

-- Two processes that start at once both run this file, and "if not exists" alone lets one of them fail on a
-- unique index of the catalog. Run the file in one transaction: the lock lasts until its end.
do $$ begin perform pg_advisory_xact_lock(hashtext('examples/bible_study/schema.sql')); end $$;

create table if not exists bible_verses (
  version text not null,                      -- 'KJV', 'WEB'
  book    text not null,                      -- USFM code: 'GEN', 'PSA', '1CO'
  chapter int  not null check (chapter > 0),
  verse   int  not null check (verse > 0),
  body    text not null,                      -- '' where the version lacks the verse (WEB, ACT 8:37)
  primary key (version, book, chapter, verse)
);
comment on table bible_verses is 'One row per verse of each version; filled by the seed web_kjv_chapters.';

create table if not exists accounts (
  id              bigint generated always as identity primary key,
  email           text,                       -- not unique: one address may pay as two customers
  stripe_customer text unique,
  plan            text not null default 'free',
  access_until    timestamptz,                -- null: never had access
  access_days     int  not null default 0,    -- days granted in all: must equal the sum over access_grants
  created_at      timestamptz not null default now()
);
comment on table accounts is 'One row per reader; checkout.session.completed adds to access_days.';

create table if not exists access_grants (
  id              bigint generated always as identity primary key,
  -- Not unique, on purpose: a constraint would hide a doubled effect, and in this table doubles are counted.
  stripe_event_id text not null,
  customer        text,                       -- null for a guest checkout
  days            int  not null default 30,
  granted_at      timestamptz not null default now()
);
comment on table access_grants is 'One row per effect of the checkout handler: as many as distinct events, or a promise broke.';

create table if not exists stats_cache (
  name        text primary key,
  value       jsonb not null,
  computed_at timestamptz not null default now()
);
comment on table stats_cache is 'Figures too slow to compute for every page; refreshed by the job stats_cache.';
