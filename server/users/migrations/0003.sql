-- The IPv4 address of a guest inside WireGuard, as a number. A guest is a device that
-- runs no adit: its one key is the one for WireGuard. NULL: it is no guest.
ALTER TABLE devices ADD COLUMN address INTEGER
	CHECK (address IS NULL OR (address BETWEEN 0 AND 4294967295 AND wireguard IS key));
CREATE UNIQUE INDEX devices_address ON devices (address);

DROP TRIGGER devices_changed;
CREATE TRIGGER devices_changed AFTER UPDATE OF key, id, wireguard, user, name, created, revoked, address ON devices
                                                           BEGIN UPDATE revision SET n = n + 1; END;
