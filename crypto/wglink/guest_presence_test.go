package wglink

import (
	"net/netip"
	"testing"
	"time"
)

func TestServerTellsWhereItsGuestsAre(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP})
	p := e.newPhone(t, phone4, phone6)
	began := time.Now().Truncate(time.Second)
	if all := e.Present(); len(all) != 0 {
		t.Errorf("before the first handshake there are %v", all)
	}
	roundTrip(t, p.mustDial(t, netip.AddrPortFrom(target4, 80)), 100)
	all := e.Present()
	at := all[p.key.Public()]
	if len(all) != 1 || !at.Remote.Addr().Is4() || !at.Remote.Addr().IsLoopback() || at.Heard.Before(began) || time.Since(at.Heard) > time.Minute {
		t.Errorf("there are %v", all)
	}
}
