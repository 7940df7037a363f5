-- What users know or have beside their devices.

CREATE TABLE passwords (
	user TEXT PRIMARY KEY REFERENCES users ON DELETE CASCADE,
	hash TEXT NOT NULL -- argon2id with its salt and parameters, in PHC's format
) STRICT, WITHOUT ROWID;

CREATE TABLE principals (
	name TEXT PRIMARY KEY, -- alice@EXAMPLE.ORG
	user TEXT NOT NULL REFERENCES users ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX principals_user ON principals (user);

CREATE TRIGGER passwords_added    AFTER INSERT ON passwords  BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER passwords_changed  AFTER UPDATE ON passwords  BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER passwords_removed  AFTER DELETE ON passwords  BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER principals_added   AFTER INSERT ON principals BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER principals_changed AFTER UPDATE ON principals BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER principals_removed AFTER DELETE ON principals BEGIN UPDATE revision SET n = n + 1; END;
