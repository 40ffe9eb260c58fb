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

create table if not exists strongs_lexicon (
  strongs_number  text primary key,           -- 'H1' … 'H8674', 'G1' … 'G5624'
  language        text not null check (language in ('Hebrew', 'Greek')),
  number          int  not null,              -- order by this: as text, H10 stands before H2
  lemma           text not null,
  transliteration text not null,
  pronunciation   text not null,
  definition      text not null
);
create index if not exists idx_strongs_lexicon_order on strongs_lexicon (language, number);
comment on table strongs_lexicon is 'One row per Strong''s number in use; filled by the seed strongs_lexicon.';

create table if not exists spurgeon_index (
  psalm      int  primary key check (psalm between 0 and 150),  -- 0: the preface
  characters int  not null,
  body       text not null                    -- up to 1.4 million characters (Psalm 119)
);
comment on table spurgeon_index is 'Spurgeon on each psalm; filled by the seed spurgeon_index.';

create table if not exists commentary_entries (
  row_id     bigint primary key,              -- the cursor: where the entry stands in its module, and which module
  source     text not null,                   -- 'mhcc', 'scofield'
  book       text not null,                   -- USFM code
  chapter    int  not null,                   -- 0: on the book as a whole
  verse      int  not null,                   -- 0: on the chapter as a whole
  last_verse int  not null,                   -- of the verses that share this text
  body       text not null check (body <> '')
);
create index if not exists idx_commentary_entries_place on commentary_entries (book, chapter, verse);
comment on table commentary_entries is 'One row per text of a commentary; filled by the seed commentary_entries.';

create table if not exists geography (
  place_id  int primary key,
  name      text not null,                    -- not unique: there were two towns called Achzib
  latitude  numeric not null check (latitude between -90 and 90),
  longitude numeric not null check (longitude between -180 and 180)
);
comment on table geography is 'One row per place of the Bible; filled by the seed geography.';

create table if not exists catechism (
  document text not null,                     -- 'WCF', 'WLC', 'WSC'
  ref      text not null,                     -- '1.1' (chapter and section) or a question's number
  heading  text not null,                     -- the chapter's title, or the question
  body     text not null,
  proofs   jsonb not null default '{}',       -- letter -> references
  primary key (document, ref)
);
comment on table catechism is 'One row per section or question of the Westminster Standards; filled by the seed catechism.';

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

create table if not exists readers (
  id       bigint generated always as identity primary key,
  name     text not null,
  birthday date,
  joined   date not null default current_date
);
comment on table readers is 'Who studies here, and gets letters.';

create table if not exists readings (
  reader_id bigint not null references readers on delete cascade,
  day       date   not null,
  chapters  int    not null check (chapters > 0),
  primary key (reader_id, day)
);
comment on table readings is 'Chapters read, by reader and day.';

create table if not exists letters (
  reader_id  bigint not null references readers on delete cascade,
  kind       text   not null,                 -- 'birthday', 'weekly', 'year_in_review'
  period     text   not null,                 -- '2026', '2026-W48'
  body       text   not null,
  written_at timestamptz not null default now(),
  sent_at    timestamptz,                     -- null: in the outbox
  -- The letter is its own mark: there is no moment at which one is there and the other is not.
  primary key (reader_id, kind, period)
);
comment on table letters is 'The outbox: one letter per reader, kind and period, however often a job is run.';

create table if not exists portraits (
  reader_id   bigint primary key references readers on delete cascade,
  body        text not null,
  computed_at timestamptz not null default now()
);
comment on table portraits is 'What the readings say about a reader; refreshed by the job portrait_regen.';

create table if not exists esv_cache (
  reference  text primary key,
  body       text not null,
  fetched_at timestamptz not null default now()
);
comment on table esv_cache is 'Passages fetched from the ESV''s API, whose terms forbid keeping them; emptied by esv_cache_expiry.';
