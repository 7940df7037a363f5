package users

import (
	"crypto/ed25519"
	"encoding/binary"
	"testing"

	"github.com/adit-net/adit/crypto/keys"
)

// crowd is how many devices the benchmarks have.
const crowd = 100_000

// crowded makes a store of many devices, ten to a user.
func crowded(b *testing.B) *Store {
	b.Helper()
	s := newStore(b)
	tx, err := s.writes.BeginTx(b.Context(), nil)
	must(b, err)
	defer tx.Rollback()
	for i := range crowd {
		user := "user" + keys.IDOf(crowdKey(i/10)).String()
		if i%10 == 0 {
			_, err = tx.ExecContext(b.Context(), "INSERT INTO users (name, created) VALUES (?, 1)", user)
			must(b, err)
			_, err = tx.ExecContext(b.Context(), "INSERT INTO user_groups VALUES (?, 'staff'), (?, 'field')", user, user)
			must(b, err)
		}
		_, err := tx.ExecContext(b.Context(), "INSERT INTO devices (key, id, user, name, created) VALUES (?, ?, ?, 'laptop', 1)",
			[]byte(crowdKey(i)), keys.IDOf(crowdKey(i)).String(), user)
		must(b, err)
	}
	must(b, tx.Commit())
	return s
}

func crowdKey(i int) ed25519.PublicKey {
	key := make(ed25519.PublicKey, ed25519.PublicKeySize)
	binary.LittleEndian.PutUint64(key, uint64(i)*0x9e3779b97f4a7c15)
	return key
}

func BenchmarkLookup(b *testing.B) {
	s := crowded(b)
	i := 0
	for b.Loop() {
		if _, _, err := s.Lookup(b.Context(), crowdKey(i*7919%crowd)); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkJoin(b *testing.B) {
	s := crowded(b)
	must(b, s.AddUser(b.Context(), "anna"))
	for b.Loop() {
		b.StopTimer()
		token := invited(b, s, "anna")
		b.StartTimer()
		if _, err := s.Join(b.Context(), token, newDevice("laptop")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := crowded(b)
	for b.Loop() {
		other, err := Open(b.Context(), s.path)
		if err != nil {
			b.Fatal(err)
		}
		other.Close()
	}
}
