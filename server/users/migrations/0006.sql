-- What users have used by rules that have quotas. It changes what nobody may do but those
-- who count it, so that no revision comes of it.
CREATE TABLE used (
	user  TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
	rule  TEXT NOT NULL,
	day   INTEGER NOT NULL, -- YYYYMMDD
	bytes INTEGER NOT NULL,
	PRIMARY KEY (user, rule, day)
) STRICT, WITHOUT ROWID;
