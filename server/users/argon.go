package users

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

const (
	saltSize = 16 // bytes
	sumSize  = 32
)

// argonCost is what a hash costs to make.
type argonCost struct {
	memory  uint32 // KiB
	time    uint32 // passes over it
	threads uint8
}

// defaultCost is what new hashes cost: some 30 ms of one core. The store has each
// hash's own beside it, so this may grow.
var defaultCost = argonCost{memory: 19 << 10, time: 2, threads: 1}

// maxCost is what a store can make the server spend on one.
var maxCost = argonCost{memory: 256 << 10, time: 16, threads: 16}

// argonHash is argon2id's (RFC 9106) of a password.
type argonHash struct {
	cost      argonCost
	salt, sum []byte
}

func argon2id(password, salt []byte, c argonCost) []byte {
	return argon2.IDKey(password, salt, c.time, c.memory, c.threads, sumSize)
}

// argonFormat is PHC's, without the salt and the sum.
const argonFormat = "$argon2id$v=19$m=%d,t=%d,p=%d$"

func (h argonHash) String() string {
	enc := base64.RawStdEncoding
	return fmt.Sprintf(argonFormat, h.cost.memory, h.cost.time, h.cost.threads) + enc.EncodeToString(h.salt) + "$" + enc.EncodeToString(h.sum)
}

var errHash = errors.New("the store has a hash that is none of this adit's")

// parseHash reads what String gives.
func parseHash(s string) (argonHash, error) {
	var h argonHash
	parts := strings.Split(s, "$")
	if len(parts) != 6 {
		return h, errHash
	}
	c := &h.cost
	if _, err := fmt.Sscanf(s, argonFormat, &c.memory, &c.time, &c.threads); err != nil {
		return h, errHash
	}
	var err1, err2 error
	enc := base64.RawStdEncoding.Strict()
	h.salt, err1 = enc.DecodeString(parts[4])
	h.sum, err2 = enc.DecodeString(parts[5])
	if err1 != nil || err2 != nil || !c.sound() || len(h.salt) != saltSize || len(h.sum) != sumSize || h.String() != s {
		return argonHash{}, errHash
	}
	return h, nil
}

func (c argonCost) sound() bool {
	return 0 < c.threads && c.threads <= maxCost.threads && 0 < c.time && c.time <= maxCost.time &&
		8*uint32(c.threads) <= c.memory && c.memory <= maxCost.memory
}
