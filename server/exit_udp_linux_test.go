package server

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestPortNobodyHasIsALoss(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	a, in, _ := associate(t, e)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		closed, at := listenPeer(t, address)
		closed.Close()
		open := udpEcho(t, address)
		for range 20 {
			// What was lost must not take the next one with it.
			a.Send(append(to(at, "lost"), to(open, "found")...))
			want := socks.Loss{To: netip.AddrPortFrom(at.IP, at.Port), Reporter: at.IP, Code: socks.ConnectionRefused}
			if got := in.loss(t); got != want {
				t.Errorf("loss is %+v, want %+v", got, want)
			}
			if d := in.next(t); string(d.Payload) != "found" || d.Addr != open {
				t.Errorf("%q came from %s", d.Payload, d.Addr)
			}
		}
	}
	if d := e.Drops(); d != (Drops{}) {
		t.Errorf("dropped: %+v", d)
	}
}

func TestDatagramWithoutAWayTakesNoneAlong(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	a, in, _ := associate(t, e)
	at := udpEcho(t, "127.0.0.1:0")
	away := socks.Addr{IP: netip.MustParseAddr("127.255.255.255"), Port: 9} // broadcast
	a.Send(slices.Concat(to(at, "first"), to(away, "x"), to(away, "x"), to(at, "last")))
	if d := e.Drops(); d.Unknown != 2 || d.Full != 0 {
		t.Errorf("dropped: %+v", d)
	}
	for _, want := range []string{"first", "last"} {
		if d := in.next(t); string(d.Payload) != want {
			t.Errorf("%q came, want %q", d.Payload, want)
		}
	}
}

// However many errors come back, they cost no other datagram, and no bundle its
// being one.
func TestManyLossesTakeNothingAlong(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	a, in, _ := associate(t, e)
	closed, closedAt := listenPeer(t, "127.0.0.1:0")
	closed.Close()
	peer, at := listenPeer(t, "127.0.0.1:0")
	var batch []socks.Datagram
	for range 8 {
		batch = slices.Concat(batch, to(closedAt, "lost"), to(at, "one"), to(at, "two"))
	}
	segment := a.(*association).socket.segment.Load()
	for range 50 {
		a.Send(batch)
		for range 8 {
			for _, want := range []string{"one", "two"} {
				if got, _ := heard(t, peer); got != want {
					t.Fatalf("%q came, want %q", got, want)
				}
			}
		}
	}
	in.loss(t)
	if got := a.(*association).socket.segment.Load(); got != segment {
		t.Errorf("datagrams of up to %d bytes are bundled, and no more up to %d", got, segment)
	}
}

// Where the kernel bundles nothing, everything goes one by one.
func TestRunsPassWithoutBundles(t *testing.T) {
	a, _, _ := associate(t, &Exit{Allow: toLoopback})
	a.(*association).socket.unbundle(unix.EIO, 1200)
	peer, at := listenPeer(t, "127.0.0.1:0")
	var batch []socks.Datagram
	for i := range 100 {
		batch = append(batch, socks.Datagram{Addr: at, Payload: bytes.Repeat([]byte{byte(i)}, 1200)})
	}
	a.Send(batch)
	for _, d := range batch {
		if got, _ := heard(t, peer); got != string(d.Payload) {
			t.Fatal("a datagram is another")
		}
	}
}

func TestBundlesAreMadeOfWhatIsAlike(t *testing.T) {
	one, other := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	run := func(to netip.AddrPort, sizes ...int) (packets []packet) {
		for _, n := range sizes {
			packets = append(packets, packet{to, make([]byte, n)})
		}
		return packets
	}
	many := func(n, size int) (sizes []int) {
		for range n {
			sizes = append(sizes, size)
		}
		return sizes
	}
	for _, test := range []struct {
		packets []packet
		want    int
	}{
		{run(one, 100), 1},
		{run(one, 100, 100, 100), 3},
		{run(one, 100, 100, 99, 99), 3},
		{run(one, 100, 101), 1},
		{run(one, 100, 0), 1}, // the kernel cuts nothing off for an empty one
		{run(one, 0, 0), 1},
		{append(run(one, 100, 100), run(other, 100)...), 2},
		{run(one, many(100, 100)...), maxSegments},
		{run(one, 2000, 2000), 1}, // longer than segment
		{run(one, many(64, 1400)...), maxBundle / 1400},
	} {
		if got := alike(test.packets, 1400); got != test.want {
			t.Errorf("%d packets of %d bytes: %d are alike, want %d", len(test.packets), len(test.packets[0].payload), got, test.want)
		}
	}
}

// lossControl is what the kernel says of a datagram that is lost.
func lossControl(level, kind int32, errno unix.Errno, origin, icmpType, icmpCode byte, info uint32, offender []byte) []byte {
	data := binary.NativeEndian.AppendUint32(nil, uint32(errno))
	data = append(data, origin, icmpType, icmpCode, 0)
	data = binary.NativeEndian.AppendUint32(data, info)
	data = append(binary.NativeEndian.AppendUint32(data, 0), offender...)
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[unix.SizeofCmsghdr:], data)
	return b
}

var (
	router4 = append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET), 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	router6 = append(append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), 0, 0, 0, 0, 0, 0),
		0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)
	mapped4 = append(append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), 0, 0, 0, 0, 0, 0),
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 0, 0, 0, 0)
)

func TestLossesSayWhatTheICMPMessageSaid(t *testing.T) {
	const icmp, icmp6, local = unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6, unix.SO_EE_ORIGIN_LOCAL
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, test := range []struct {
		what     string
		level    int32
		errno    unix.Errno
		origin   byte
		icmp     [2]byte
		info     uint32
		offender []byte
		want     socks.Loss
	}{
		{"no such network", unix.SOL_IP, unix.ENETUNREACH, icmp, [2]byte{3, 0}, 0, router4, socks.Loss{Reporter: v4, Code: socks.NetworkUnreachable}},
		{"no such host", unix.SOL_IP, unix.EHOSTUNREACH, icmp, [2]byte{3, 1}, 0, router4, socks.Loss{Reporter: v4, Code: socks.HostUnreachable}},
		{"no such host, at a socket for both", unix.SOL_IPV6, unix.EHOSTUNREACH, icmp, [2]byte{3, 1}, 0, mapped4, socks.Loss{Reporter: v4, Code: socks.HostUnreachable}},
		{"no such port", unix.SOL_IP, unix.ECONNREFUSED, icmp, [2]byte{3, 3}, 0, router4, socks.Loss{Reporter: v4, Code: socks.ConnectionRefused}},
		{"too big", unix.SOL_IP, unix.EMSGSIZE, icmp, [2]byte{3, 4}, 1400, router4, socks.Loss{Reporter: v4, Code: socks.GeneralFailure, MTU: 1400}},
		{"prohibited", unix.SOL_IP, unix.EHOSTUNREACH, icmp, [2]byte{3, 13}, 0, router4, socks.Loss{Reporter: v4, Code: socks.NotAllowed}},
		{"TTL expired", unix.SOL_IP, unix.EHOSTUNREACH, icmp, [2]byte{11, 0}, 0, router4, socks.Loss{Reporter: v4, Code: socks.TTLExpired}},
		{"no route", unix.SOL_IPV6, unix.ENETUNREACH, icmp6, [2]byte{1, 0}, 0, router6, socks.Loss{Reporter: v6, Code: socks.NetworkUnreachable}},
		{"prohibited in IPv6", unix.SOL_IPV6, unix.EACCES, icmp6, [2]byte{1, 1}, 0, router6, socks.Loss{Reporter: v6, Code: socks.NotAllowed}},
		{"no such host in IPv6", unix.SOL_IPV6, unix.EHOSTUNREACH, icmp6, [2]byte{1, 3}, 0, router6, socks.Loss{Reporter: v6, Code: socks.HostUnreachable}},
		{"no such port in IPv6", unix.SOL_IPV6, unix.ECONNREFUSED, icmp6, [2]byte{1, 4}, 0, router6, socks.Loss{Reporter: v6, Code: socks.ConnectionRefused}},
		{"too big in IPv6", unix.SOL_IPV6, unix.EMSGSIZE, icmp6, [2]byte{2, 0}, 1280, router6, socks.Loss{Reporter: v6, Code: socks.GeneralFailure, MTU: 1280}},
		{"hop limit exceeded", unix.SOL_IPV6, unix.EHOSTUNREACH, icmp6, [2]byte{3, 0}, 0, router6, socks.Loss{Reporter: v6, Code: socks.TTLExpired}},
		{"too big for the first link", unix.SOL_IPV6, unix.EMSGSIZE, local, [2]byte{}, 1500, nil, socks.Loss{Code: socks.GeneralFailure, MTU: 1500}},
	} {
		kind := int32(unix.IP_RECVERR)
		if test.level == unix.SOL_IPV6 {
			kind = unix.IPV6_RECVERR
		}
		b := lossControl(test.level, kind, test.errno, test.origin, test.icmp[0], test.icmp[1], test.info, test.offender)
		if got, ok := parseLoss(b); !ok || got != test.want {
			t.Errorf("%s: %+v, %v; want %+v", test.what, got, ok, test.want)
		}
	}
	for _, silent := range [][2]byte{{4, 0}, {11, 1}, {12, 0}, {3, 99}} {
		b := lossControl(unix.SOL_IP, unix.IP_RECVERR, unix.EPROTO, icmp, silent[0], silent[1], 0, router4)
		if got, ok := parseLoss(b); ok {
			t.Errorf("ICMP %v is a loss: %+v", silent, got)
		}
	}
}

func FuzzParseLoss(f *testing.F) {
	f.Add([]byte{})
	f.Add(lossControl(unix.SOL_IP, unix.IP_RECVERR, unix.EMSGSIZE, unix.SO_EE_ORIGIN_ICMP, 3, 4, 1400, router4))
	f.Add(lossControl(unix.SOL_IPV6, unix.IPV6_RECVERR, unix.ECONNREFUSED, unix.SO_EE_ORIGIN_ICMP6, 1, 4, 0, router6))
	f.Add(lossControl(unix.SOL_IPV6, unix.IPV6_RECVERR, unix.EMSGSIZE, unix.SO_EE_ORIGIN_LOCAL, 0, 0, 1500, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := parseLoss(b)
		if ok && l.Code == socks.Succeeded {
			t.Errorf("a loss that is none: %+v", l)
		}
		coalesced(b)
	})
}
