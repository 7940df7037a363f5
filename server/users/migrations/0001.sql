-- What a file of ours says of itself at byte 68: "adit" in ASCII.
PRAGMA application_id = 0x61646974;

-- Times are milliseconds since 1970 in UTC.

CREATE TABLE users (
	name     TEXT    PRIMARY KEY,
	created  INTEGER NOT NULL,
	disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Names are exact everywhere, but no two users may differ by case alone.
CREATE UNIQUE INDEX users_fold ON users (lower(name));

CREATE TABLE user_groups (
	user TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
	name TEXT NOT NULL,
	PRIMARY KEY (user, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
	key       BLOB    PRIMARY KEY CHECK (length(key) = 32),
	id        TEXT    NOT NULL UNIQUE,
	wireguard BLOB    UNIQUE CHECK (length(wireguard) = 32), -- NULL: it has none
	user      TEXT    NOT NULL REFERENCES users ON DELETE CASCADE,
	name      TEXT    NOT NULL,
	created   INTEGER NOT NULL,
	seen      INTEGER NOT NULL DEFAULT 0, -- 0: never
	revoked   INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_user ON devices (user, name);

CREATE TABLE invites (
	hash    BLOB    PRIMARY KEY CHECK (length(hash) = 32), -- SHA-256 of the token, which is not kept
	user    TEXT    NOT NULL REFERENCES users ON DELETE CASCADE,
	expires INTEGER NOT NULL,
	used    INTEGER NOT NULL DEFAULT 0 -- 0: not yet
) STRICT, WITHOUT ROWID;

CREATE INDEX invites_user ON invites (user);
CREATE INDEX invites_expires ON invites (expires);

CREATE TABLE invite_groups (
	invite BLOB NOT NULL REFERENCES invites ON DELETE CASCADE,
	name   TEXT NOT NULL,
	PRIMARY KEY (invite, name)
) STRICT, WITHOUT ROWID;

-- One row. It counts whatever may change what somebody may do, by whichever
-- process or tool; that a device was seen is no such thing.
CREATE TABLE revision (n INTEGER NOT NULL) STRICT;
INSERT INTO revision VALUES (0);

CREATE TRIGGER users_added     AFTER INSERT ON users       BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER users_changed   AFTER UPDATE ON users       BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER users_removed   AFTER DELETE ON users       BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER groups_added    AFTER INSERT ON user_groups BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER groups_changed  AFTER UPDATE ON user_groups BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER groups_removed  AFTER DELETE ON user_groups BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER devices_added   AFTER INSERT ON devices     BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER devices_changed AFTER UPDATE OF key, id, wireguard, user, name, created, revoked ON devices
                                                           BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER devices_removed AFTER DELETE ON devices     BEGIN UPDATE revision SET n = n + 1; END;
