CREATE TABLE IF NOT EXISTS kern_meta (
    name VARCHAR(255) NOT NULL,
    content VARCHAR(255) NOT NULL,
    PRIMARY KEY (name)
);
