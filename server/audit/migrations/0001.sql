-- What a file of ours says of itself at byte 68: "adit" in ASCII.
PRAGMA application_id = 0x61646974;

-- Times are milliseconds since 1970 in UTC, durations milliseconds or as they say.
--
-- words, origins, opened and records are sealed: rows are added at their end, never changed
-- and never removed. A later version may add columns at the end of these tables, which
-- are NULL in what was sealed before.

CREATE TABLE words (
	id   INTEGER PRIMARY KEY,
	text TEXT NOT NULL,
	ip   BLOB -- of an address, 16 bytes, so that networks are ranges
) STRICT;
CREATE INDEX words_text ON words (text COLLATE NOCASE);
CREATE INDEX words_ip ON words (ip) WHERE ip IS NOT NULL;

CREATE TABLE origins (
	id           INTEGER PRIMARY KEY,
	run          TEXT NOT NULL, -- which process
	exit         TEXT NOT NULL,
	session      TEXT NOT NULL,
	user         TEXT NOT NULL,
	device       TEXT NOT NULL,
	groups       TEXT NOT NULL,
	source       TEXT NOT NULL,
	door         TEXT NOT NULL,
	dialect      TEXT NOT NULL,
	method       TEXT NOT NULL,
	carrier      TEXT NOT NULL,
	version      TEXT NOT NULL,
	key_exchange TEXT NOT NULL,
	cipher       TEXT NOT NULL,
	ipsec        TEXT NOT NULL,
	gss          TEXT NOT NULL
) STRICT;

-- What lasted longer than a batch, as it was when it began.
CREATE TABLE opened (
	seq         INTEGER PRIMARY KEY,
	kind        INTEGER NOT NULL,
	origin      INTEGER NOT NULL,
	id          INTEGER NOT NULL, -- with the run it is that of the flow or session
	begin       INTEGER NOT NULL,
	duration    INTEGER NOT NULL,
	source_port INTEGER NOT NULL,
	command     INTEGER NOT NULL, -- this and others: words
	name        INTEGER NOT NULL,
	address     INTEGER NOT NULL,
	port        INTEGER NOT NULL,
	protocol    INTEGER NOT NULL,
	host        INTEGER NOT NULL,
	decision    INTEGER NOT NULL,
	rule        INTEGER NOT NULL,
	up          INTEGER NOT NULL,
	down        INTEGER NOT NULL,
	sent        INTEGER NOT NULL,
	received    INTEGER NOT NULL,
	connect     INTEGER NOT NULL, -- microseconds
	first_byte  INTEGER NOT NULL, -- microseconds
	resumes     INTEGER NOT NULL,
	ended       INTEGER NOT NULL,
	what        INTEGER NOT NULL
) STRICT;

-- What has ended, in this order.
CREATE TABLE records (
	seq         INTEGER PRIMARY KEY,
	kind        INTEGER NOT NULL,
	origin      INTEGER NOT NULL,
	id          INTEGER NOT NULL,
	begin       INTEGER NOT NULL,
	duration    INTEGER NOT NULL,
	source_port INTEGER NOT NULL,
	command     INTEGER NOT NULL,
	name        INTEGER NOT NULL,
	address     INTEGER NOT NULL,
	port        INTEGER NOT NULL,
	protocol    INTEGER NOT NULL,
	host        INTEGER NOT NULL,
	decision    INTEGER NOT NULL,
	rule        INTEGER NOT NULL,
	up          INTEGER NOT NULL,
	down        INTEGER NOT NULL,
	sent        INTEGER NOT NULL,
	received    INTEGER NOT NULL,
	connect     INTEGER NOT NULL,
	first_byte  INTEGER NOT NULL,
	resumes     INTEGER NOT NULL,
	ended       INTEGER NOT NULL,
	what        INTEGER NOT NULL
) STRICT;
CREATE INDEX records_events ON records (kind) WHERE kind <> 1;

-- One row for each batch, and before these one that repeats the last of the file before. The
-- numbers are those of the last rows that it covers.
CREATE TABLE seals (
	n       INTEGER PRIMARY KEY,
	time    INTEGER NOT NULL,
	words   INTEGER NOT NULL,
	origins INTEGER NOT NULL,
	opened  INTEGER NOT NULL,
	records INTEGER NOT NULL,
	hash    BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- How far what goes on has come. It is not sealed; records will say it.
CREATE TABLE progress (
	opening  INTEGER PRIMARY KEY,
	run      TEXT    NOT NULL,
	duration INTEGER NOT NULL,
	up       INTEGER NOT NULL,
	down     INTEGER NOT NULL,
	sent     INTEGER NOT NULL,
	received INTEGER NOT NULL,
	resumes  INTEGER NOT NULL
) STRICT;

-- What follows is made from the records, and could be made again.

-- Flows by the hour they began in. Texts are words.
CREATE TABLE hours (
	hour     INTEGER NOT NULL, -- hours since 1970
	user     INTEGER NOT NULL,
	groups   INTEGER NOT NULL,
	protocol INTEGER NOT NULL,
	rule     INTEGER NOT NULL,
	decision INTEGER NOT NULL,
	flows    INTEGER NOT NULL,
	up       INTEGER NOT NULL,
	down     INTEGER NOT NULL,
	sent     INTEGER NOT NULL,
	received INTEGER NOT NULL,
	duration INTEGER NOT NULL,
	PRIMARY KEY (hour, user, groups, protocol, rule, decision)
) STRICT, WITHOUT ROWID;

-- Columns of 4096 records, by seq, so that a search need not look at the records: ids in the
-- records' order, as varints. An index over each record would cost more than all the rest.
CREATE TABLE blocks (
	n         INTEGER PRIMARY KEY,
	first     INTEGER NOT NULL, -- seq
	earliest  INTEGER NOT NULL, -- begin
	latest    INTEGER NOT NULL,
	origins   BLOB    NOT NULL,
	names     BLOB    NOT NULL,
	addresses BLOB    NOT NULL,
	hosts     BLOB    NOT NULL
) STRICT;

-- One row once another file has taken this one's place.
CREATE TABLE closed (
	time INTEGER NOT NULL
) STRICT;
