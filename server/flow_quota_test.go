package server

import (
	"strings"
	"testing"

	"github.com/adit-net/adit/server/quota"
	"github.com/adit-net/adit/tunnel/socks"
)

const rationed = `[[rule]]
name = "little"
commands = ["connect"]
quota_per_day = "30 kB"
then = "allow"
`

func TestAQuotaIsAUsersAndEndsWhatIsOpen(t *testing.T) {
	port := echoTarget(t)
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, rationed) })
	anna, bob := h.attach(h.device("anna")), h.attach(h.device("bob"))
	first, second := anna.connect(port), anna.connect(port)
	exchange(t, first, strings.Repeat("x", 8000))
	exchange(t, second, strings.Repeat("x", 8000))
	wantBroken(t, first)
	wantBroken(t, second)
	if _, code := anna.request(socks.Connect, onLoopback(port)); code != socks.NotAllowed {
		t.Errorf("with a quota that is used up: %v", code)
	}
	exchange(t, bob.connect(port), "hello")

	// Another process knows of it, and other rules do not ask.
	h.must(h.quotas.Keep(t.Context()))
	other := quota.NewBook(usage{h.store})
	h.must(other.Load(t.Context()))
	if today, month := other.Account(quota.Key{User: "anna", Rule: "little"}).Used(); today != 32_000 || month != 32_000 {
		t.Errorf("%d bytes are kept of the day, %d of the month", today, month)
	}
	h.SetPolicy(rules(t, "[[rule]]\nthen = \"allow\"\n"))
	exchange(t, anna.connect(port), strings.Repeat("x", 8000))
}

func TestTheLastBytesOfAServerAreKept(t *testing.T) {
	port := echoTarget(t)
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, rationed) })
	exchange(t, h.attach(h.device("anna")).connect(port), "hello")
	h.stop()
	used, err := h.store.UsedSince(t.Context(), 0)
	if err != nil || len(used) != 1 || used[0].Bytes != 10 {
		t.Errorf("%+v, %v", used, err)
	}
}
