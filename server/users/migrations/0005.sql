-- What single users have of the bandwidth, in bits per second. NULL: as the server has it;
-- 0: no guarantee, or no ceiling.
CREATE TABLE rates (
	user         TEXT PRIMARY KEY REFERENCES users ON DELETE CASCADE,
	rate_up      INTEGER CHECK (rate_up BETWEEN 0 AND 1000000000000),
	rate_down    INTEGER CHECK (rate_down BETWEEN 0 AND 1000000000000),
	ceiling_up   INTEGER CHECK (ceiling_up BETWEEN 0 AND 1000000000000),
	ceiling_down INTEGER CHECK (ceiling_down BETWEEN 0 AND 1000000000000)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER rates_added   AFTER INSERT ON rates BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER rates_changed AFTER UPDATE ON rates BEGIN UPDATE revision SET n = n + 1; END;
CREATE TRIGGER rates_removed AFTER DELETE ON rates BEGIN UPDATE revision SET n = n + 1; END;
