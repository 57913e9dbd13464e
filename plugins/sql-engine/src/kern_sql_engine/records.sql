CREATE TABLE IF NOT EXISTS kern_record (
    kind VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    content BLOB NOT NULL,
    version BIGINT NOT NULL,
    expires DOUBLE,
    PRIMARY KEY (kind, name)
);

CREATE INDEX IF NOT EXISTS kern_record_expires ON kern_record (expires);
