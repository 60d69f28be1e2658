-- Who may have what. The same text for SQLite and PostgreSQL: TEXT for names and keys, BIGINT for
-- numbers, seconds since 1970 for times, days since 1970 where a day is all that may be kept.
-- No table has a column for a sender or for mail, and none may get one.

-- One row. Every change begins by counting `revision` up, which makes all writers of all relays
-- wait for each other: no check below can be raced, and a reader that asks for what is newer than
-- a revision misses nothing.
CREATE TABLE registry (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL,
    -- The number of the next box; never used again, as its IPv6 address follows from it.
    next_box BIGINT NOT NULL
);
INSERT INTO registry (id, revision, next_box) VALUES (1, 1, 256);

CREATE TABLE boxes (
    id BIGINT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    -- The public half of what the owner's recovery kit holds.
    recovery TEXT UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('active', 'revoked', 'left')),
    domains_allowed BIGINT NOT NULL,
    created_day BIGINT NOT NULL,
    seen_day BIGINT,
    revision BIGINT NOT NULL
);
CREATE INDEX boxes_by_revision ON boxes (revision);

-- Keys that must never be accepted again.
CREATE TABLE revocations (
    key TEXT PRIMARY KEY,
    box BIGINT NOT NULL REFERENCES boxes (id),
    reason TEXT NOT NULL CHECK (reason IN ('revoked', 'rotated', 'recovered', 'left')),
    day BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE INDEX revocations_by_revision ON revocations (revision);

CREATE TABLE invites (
    -- SHA-256 of the secret, which is kept nowhere.
    hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    domains BIGINT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    -- The key that it was spent for; that key may repeat its join.
    spent_by TEXT,
    spent BIGINT
);
CREATE UNIQUE INDEX invites_open_by_name ON invites (name) WHERE spent_by IS NULL;

CREATE TABLE domains (
    name TEXT PRIMARY KEY,
    box BIGINT NOT NULL REFERENCES boxes (id),
    method TEXT NOT NULL CHECK (method IN ('txt', 'ds')),
    state TEXT NOT NULL CHECK (state IN ('proved', 'warned', 'suspended', 'released')),
    since BIGINT NOT NULL,
    checked BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    detail TEXT NOT NULL,
    proved BIGINT NOT NULL,
    next_check BIGINT NOT NULL
);
CREATE INDEX domains_by_box ON domains (box);
CREATE INDEX domains_by_next_check ON domains (next_check);

CREATE TABLE mx_names (
    name TEXT PRIMARY KEY,
    domain TEXT NOT NULL REFERENCES domains (name)
);
CREATE INDEX mx_names_by_domain ON mx_names (domain);

CREATE TABLE addresses (
    address TEXT PRIMARY KEY,
    box BIGINT NOT NULL REFERENCES boxes (id)
);
CREATE INDEX addresses_by_box ON addresses (box);
