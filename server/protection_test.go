package server

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel"
)

func TestFlowsGoByWhatProtectsThePathAtTheMoment(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	var below atomic.Pointer[[]string]
	below.Store(&[]string{"tls", "ipsec:aes-gcm-128", "gss-confidentiality"})
	v, err := h.Visit(t.Context(), Visitor{User: "bob", Came: func() policy.Who { return policy.Who{Protection: *below.Load()} }})
	h.must(err)
	port := echoTarget(t)
	for _, word := range []string{"ipsec", "ipsec:aes-gcm", "ipsec:aes-gcm-128", "gss-integrity", "gss-confidentiality", "tls"} {
		h.SetPolicy(rules(t, "[[rule]]\nprotection = [\""+word+"\"]\nthen = \"allow\"\n"))
		conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
		h.must(err)
		exchange(t, conn, "hello")
		h.must(conn.Close())
	}
	for _, word := range []string{"ipsec:aes-gcm-256", "ipsec:aes-cbc", "ipsec:stated", "none", "wireguard"} {
		h.SetPolicy(rules(t, "[[rule]]\nprotection = [\""+word+"\"]\nthen = \"allow\"\n"))
		if conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port)); err == nil {
			conn.Close()
			t.Errorf("%s: a connection", word)
		}
	}
	v.Close()
	for _, f := range end(audit.Flow) {
		if f.Carrier != "tls" || f.IPsec != "aes-gcm-128" || f.GSS != "confidentiality" {
			t.Errorf("record %+v", f.Origin)
		}
	}
}

func TestAFlowEndsWithTheProtectionThatItsRuleAsksFor(t *testing.T) {
	h := newHouse(t, nil)
	var protected atomic.Bool
	protected.Store(true)
	v, err := h.Visit(t.Context(), Visitor{User: "bob", Came: func() policy.Who {
		if protected.Load() {
			return policy.Who{Protection: []string{"ipsec:aes-gcm-128"}}
		}
		return policy.Who{}
	}})
	h.must(err)
	defer v.Close()
	h.SetPolicy(rules(t, "[[rule]]\nprotection = [\"ipsec\"]\nthen = \"allow\"\n"))
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", echoTarget(t)))
	h.must(err)
	exchange(t, conn, "hello")
	protected.Store(false)
	h.PathsChanged()
	conn.SetDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("it goes on: Read gives %d bytes", n)
	}
}

// What one of the lanes lacks, a session's logins must not count on.
func TestPathOfASessionIsWhatAllItsLanesHave(t *testing.T) {
	s := &session{server: &Server{}}
	for i, words := range [][]string{{"ipsec:aes-gcm-128", "x"}, {"x"}} {
		s.lanes[i] = &lane{arrival: &tunnel.Arrival{
			Protection: tunnel.Protection{Carrier: "tls", Cipher: "c"}, Below: func() []string { return words },
		}}
	}
	if w := s.path(); !slices.Equal(w.Protection, []string{"tls", "x"}) || w.Cipher != "c" {
		t.Errorf("it is %q, %q", w.Protection, w.Cipher)
	}
}
