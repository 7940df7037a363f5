-- How long the user's sessions outlive their last carrier, in milliseconds, up to a
-- day. NULL: as long as the server says; 0: they end with it.
ALTER TABLE users ADD COLUMN grace INTEGER CHECK (grace BETWEEN 0 AND 86400000);
