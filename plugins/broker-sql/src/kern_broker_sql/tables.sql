CREATE TABLE IF NOT EXISTS kern_binding (
    exchange VARCHAR(255) NOT NULL,
    routing_key VARCHAR(255) NOT NULL,
    queue VARCHAR(255) NOT NULL,
    exchange_type VARCHAR(32) NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue)
);

CREATE TABLE IF NOT EXISTS kern_broadcast (
    id BIGINT NOT NULL,
    topic VARCHAR(255) NOT NULL,
    payload BLOB NOT NULL,
    at DOUBLE NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE IF NOT EXISTS kern_broadcast_head (
    id INTEGER NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE IF NOT EXISTS kern_message (
    id INTEGER NOT NULL,
    queue VARCHAR(255) NOT NULL,
    task_id VARCHAR(255),
    nice INTEGER DEFAULT 0 NOT NULL,
    state SMALLINT DEFAULT 0 NOT NULL,
    ready_at DOUBLE NOT NULL,
    due DOUBLE,
    token VARCHAR(32),
    owner VARCHAR(255),
    leased_until DOUBLE,
    started SMALLINT DEFAULT 0 NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    redelivered SMALLINT DEFAULT 0 NOT NULL,
    suspect SMALLINT DEFAULT 0 NOT NULL,
    parked_reason VARCHAR(255),
    parked_since DOUBLE,
    times_parked INTEGER DEFAULT 0 NOT NULL,
    exchange VARCHAR(255) NOT NULL,
    routing_key VARCHAR(255) NOT NULL,
    size BIGINT NOT NULL,
    raw BLOB NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT kern_message_task UNIQUE (task_id, queue)
);

CREATE INDEX IF NOT EXISTS kern_message_delayed ON kern_message (queue, due) WHERE state = 2;

CREATE INDEX IF NOT EXISTS kern_message_leased ON kern_message (leased_until) WHERE state = 1;

CREATE INDEX IF NOT EXISTS kern_message_ready ON kern_message (queue, nice, ready_at, id) WHERE state = 0;

CREATE TABLE IF NOT EXISTS kern_presence (
    id VARCHAR(255) NOT NULL,
    hostname VARCHAR(255) NOT NULL,
    queues TEXT NOT NULL,
    facts TEXT NOT NULL,
    last_beat DOUBLE NOT NULL,
    lasts DOUBLE NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE IF NOT EXISTS kern_quarantine (
    id INTEGER NOT NULL,
    name VARCHAR(760) NOT NULL,
    queue VARCHAR(255) NOT NULL,
    task_id VARCHAR(255),
    nice INTEGER NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL,
    at DOUBLE NOT NULL,
    exchange VARCHAR(255) NOT NULL,
    routing_key VARCHAR(255) NOT NULL,
    size BIGINT NOT NULL,
    raw BLOB NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE INDEX IF NOT EXISTS ix_kern_quarantine_queue ON kern_quarantine (queue);

CREATE INDEX IF NOT EXISTS ix_kern_quarantine_task_id ON kern_quarantine (task_id);

CREATE TABLE IF NOT EXISTS kern_queue (
    name VARCHAR(255) NOT NULL,
    idle_limit DOUBLE,
    used_at DOUBLE NOT NULL,
    PRIMARY KEY (name)
);
