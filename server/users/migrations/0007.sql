-- What part of the bandwidth that nobody is guaranteed a user gets, beside others who want
-- some. NULL: 1.
ALTER TABLE rates ADD COLUMN weight INTEGER CHECK (weight BETWEEN 1 AND 1000);
