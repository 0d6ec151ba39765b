-- The slice of an entity is the same on every platform, in every encoding and release, and entities spread evenly.

-- FNV-1a (64 bits) over the UTF-8 form of type, 0x00, id; MurmurHash3's finaliser; modulo 1024. Computed elsewhere.
SELECT entity_type, left(entity_id, 40) AS entity_id, slice, cqrs.slice(entity_type, entity_id) = slice AS right_slice
FROM (VALUES
    ('', '', 507),
    ('User', 'u-1', 948),
    ('User', 'u-2', 19),
    ('u-1', 'User', 687),
    ('Us', 'eru-1', 870),
    ('user', 'u-1', 291),
    ('User', '', 457),
    ('', 'User', 968),
    ('Benutzer', '雄一郎', 197),
    ('雄一郎', '1', 581),
    ('Größe', 'Ä', 416),
    ('Order', '😀', 382),
    ('User', repeat('a', 1000), 580),
    ('User', '00000000-0000-4000-8000-000000000001', 69)
) v (entity_type, entity_id, slice);
-- However the text is stored: short, long, compressed, or out of line.
CREATE TEMPORARY TABLE named (entity_id text);
INSERT INTO named SELECT repeat('a', 1000);
INSERT INTO named SELECT 'a' FROM generate_series(1, 1);
INSERT INTO named SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i;
SELECT length(entity_id), cqrs.slice('User', entity_id) = cqrs.slice('User', entity_id || '') AS same FROM named ORDER BY 1;
SELECT cqrs.slice('User', entity_id) FROM named WHERE length(entity_id) = 1000;

-- NULL is no entity.
SELECT cqrs.slice(NULL, 'u-1') IS NULL AND cqrs.slice('User', NULL) IS NULL AS no_slice;

-- 1024 slices, all of them used, none much more than others: 100,000 ids make 98 a slice on average.
SELECT count(*), min(slice), max(slice), min(n) > 50 AS enough, max(n) < 150 AS not_too_many,
    sum((n - 100000 / 1024.0) ^ 2 / (100000 / 1024.0)) < 1250 AS even
FROM (SELECT cqrs.slice('User', i::text) AS slice, count(*) AS n FROM generate_series(1, 100000) i GROUP BY slice) s;
SELECT count(*), min(slice), max(slice), min(n) > 50 AS enough, max(n) < 150 AS not_too_many,
    sum((n - 100000 / 1024.0) ^ 2 / (100000 / 1024.0)) < 1250 AS even
FROM (SELECT cqrs.slice('User', 'u-' || i) AS slice, count(*) AS n FROM generate_series(1, 100000) i GROUP BY slice) s;

-- It may be part of an index, and make a column.
CREATE TEMPORARY TABLE sliced (entity_type text, entity_id text, slice integer GENERATED ALWAYS AS (cqrs.slice(entity_type, entity_id)) STORED);
CREATE INDEX sliced_idx ON sliced (cqrs.slice(entity_type, entity_id));
INSERT INTO sliced VALUES ('User', 'u-1'), ('User', 'u-2'), ('Benutzer', '雄一郎');
SELECT * FROM sliced ORDER BY slice;
SET enable_seqscan = off;
SELECT entity_id FROM sliced WHERE cqrs.slice(entity_type, entity_id) = 948;
RESET enable_seqscan;

-- The hash is of the characters, not of the bytes that the database keeps them in.
SELECT current_database() AS database \gset
CREATE DATABASE regress_slice TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_slice
SET client_encoding = 'UTF8';
CREATE EXTENSION pg_cqrs;
SELECT octet_length('Größe'), cqrs.slice('Größe', 'Ä'), cqrs.slice('User', 'u-1'), cqrs.slice('', '');
SELECT version FROM cqrs.append('Größe', 'Ä', ARRAY[cqrs.new_event('Öffnete', '{"ß": "ü"}')]);
SELECT slice, entity_type, entity_id, event_type, data FROM cqrs.read_events();
\c :database
DROP DATABASE regress_slice;
