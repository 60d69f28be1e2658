-- Ordered pairs of shared addresses, and the box that each was given to. A pair of a box that is
-- gone is kept: old MX records lead there for a while, and must not lead to somebody else.
CREATE TABLE pairs (
    first TEXT NOT NULL,
    second TEXT NOT NULL,
    box BIGINT NOT NULL REFERENCES boxes (id),
    -- Since when the box has no more use of it, in seconds since 1970.
    freed BIGINT,
    PRIMARY KEY (first, second)
);
CREATE INDEX pairs_by_box ON pairs (box);
