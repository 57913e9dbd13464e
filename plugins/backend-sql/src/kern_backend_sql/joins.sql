CREATE TABLE IF NOT EXISTS kern_join (
    id VARCHAR(255) NOT NULL,
    opened SMALLINT NOT NULL,
    policy VARCHAR(32) NOT NULL,
    needed INTEGER,
    members TEXT,
    size INTEGER,
    body BLOB,
    on_error BLOB,
    deadline DOUBLE,
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    closed SMALLINT NOT NULL,
    look_at DOUBLE,
    expires DOUBLE,
    PRIMARY KEY (id)
);

CREATE INDEX IF NOT EXISTS kern_join_look ON kern_join (closed, look_at);

CREATE TABLE IF NOT EXISTS kern_join_part (
    join_id VARCHAR(255) NOT NULL,
    member VARCHAR(255) NOT NULL,
    number BIGINT,
    state VARCHAR(50) NOT NULL,
    result BLOB,
    PRIMARY KEY (join_id, member)
);
