package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/udp"
)

// disguises are more ways to write an address of this host, beside [spellings].
var disguises = []string{
	"127.0.0.9", "127.0.0.9.", "[127.0.0.9]", "127.9", "127.0.9", "0177.0.0.011", "0x7f.0.0.9", "0x7f000009", "2130706441", "017700000011",
	"127.0.0.09", "127.000.000.009", "0x7F.0X0.0.0x9", "00000177.0.0.9", "127.0.0.0x9", "127.0.9.", "+127.0.0.9", "-127.0.0.9", "127..0.0.9", ".127.0.0.9",
	"127.0.0.9..", "4422098953", "127.0.0.265", "0x17f000009", "0o177.0.0.1", "0b1111111.0.0.1",
	"::ffff:127.0.0.9", "::ffff:7f00:9", "::FFFF:7F00:0009", "0:0:0:0:0:ffff:7f00:0009", "[::ffff:127.0.0.9]", "[0:0:0:0:0:ffff:127.0.0.9]", "::127.0.0.9", "::7f00:9",
	"::ffff:0:127.0.0.9", "::fffe:127.0.0.9", "0::1", "::0001", "[0:0:0:0:0:0:0:1]", "::1.", "[::1].", "[::1", "::1]", "[[::1]]", "::0.0.0.1", "[::0.0.0.1]",
	"64:ff9b::127.0.0.9", "64:ff9b::7f00:9", "0064:FF9B::7F00:0009", "64:ff9b:1::7f00:9", "64:ff9b:1:7f00:0:900::", "64:ff9b:0:0:0:1::7f00:9",
	"2002:7f00:9::", "2002:7f00:0009::1", "2002:7f00:9::5efe:8.8.8.8", "2001:db8::5efe:7f00:9", "2001:db8::200:5efe:127.0.0.9", "fe80::5efe:7f00:9",
	"2001:0:7f00:9::", "2001::80ff:fff6", "2001:0:4136:e378:8000:63bf:80ff:fff6",
	"::1%lo", "[::1%25lo]", "[::1%lo]", "127.0.0.9%lo", "::ffff:127.0.0.9%1", "fe80::1%25eth0",
	"127%2e0%2e0%2e9", "%31%32%37.0.0.9", "127.0.0.9%00", "127.0.0.9%2f", "127.0.0.9\x00.example", "127.0.0.9 ", " 127.0.0.9", "127.0.0.9\t", "user@127.0.0.9", "127.0.0.9#", "127.0.0.9/",
	"127.0.0.9:80", "127.0.0.9\\@public.example", "public.example#@127.0.0.9", "127\u00ad.0.0.9", "127.0.0.9\u200b", "\ufeff127.0.0.9",
	"１２７.0.0.9", "１２７．０．０．９", "127。0。0。9", "127｡0｡0｡9", "①②⑦.0.0.9", "𝟏𝟐𝟕.0.0.9", "١٢٧.0.0.9", "⑴27.0.0.9", "0ｘ7f000009", "[：：１]", "ⓛocalhost", "ｌｏｃａｌｈｏｓｔ", "localhost。",
	"localhost", "LocalHost.", "x.LOCALHOST", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "broadcasthost",
	"0", "00", "0.0", "0x00000000", "0.0.0.0.", "[::]", "::0", "0:0:0:0:0:0:0:0", "::ffff:0:0", "64:ff9b::", "2002::1",
	"255.255.255.255", "::ffff:255.255.255.255", "4294967295", "127.255.255.255", "ff01::1", "ff02::1%lo", "ff05::2", "ff0e::fb", "::ffff:224.0.0.251", "64:ff9b::e000:fb",
	"169.254.169.254", "169.254.43518", "[fd00:ec2::254]", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "::ffff:168.63.129.16", "64:ff9b::100.100.100.200", "fe80::a9fe:a9fe%1",
	"metadata.google.internal", "instance-data", "nip.127.0.0.9.nip.io", "secret.example", "SECRET.example.", "xn--n3h.example", "a.b.c.d.e.f",
}

// bait is what nobody may reach: something at this host's addresses, for connections and
// datagrams. Its neighbour at 127.0.0.2, at the same port, may be reached.
type bait struct {
	port uint16
	own  []netip.Addr // this host's addresses that are not for itself alone

	mu      sync.Mutex
	reached []string
}

var neighbour = netip.MustParseAddr("127.0.0.2")

func newBait(t *testing.T) *bait {
	t.Helper()
	b := &bait{}
	all, err := hostAddrs()
	if err != nil {
		t.Fatal(err)
	}
	b.own = slices.DeleteFunc(all, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() })
	at := append(addrs("127.0.0.2", "127.0.0.1", "127.0.0.9", "::1"), b.own...)
	var open []io.Closer
	for try := 0; len(open) < 2*len(at); try++ {
		for _, c := range open {
			c.Close()
		}
		if open, err = b.open(at); err != nil && try == 100 {
			t.Fatal(err)
		}
	}
	var serving sync.WaitGroup
	for _, c := range open {
		switch c := c.(type) {
		case *net.TCPListener:
			serving.Go(func() { b.accept(c) })
		case *net.UDPConn:
			serving.Go(func() { b.hear(c) })
		}
	}
	t.Cleanup(func() {
		for _, c := range open {
			c.Close()
		}
		serving.Wait()
	})
	return b
}

// open opens one port at all addresses, or as many as can be.
func (b *bait) open(at []netip.Addr) (open []io.Closer, err error) {
	b.port = 0
	for _, a := range at {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, b.port)))
		if err != nil {
			return open, err
		}
		open = append(open, l)
		b.port = portOf(l)
		pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, b.port)))
		if err != nil {
			return open, err
		}
		open = append(open, pc)
	}
	return open, nil
}

func (b *bait) accept(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		b.note(c.LocalAddr(), "a connection")
		_ = c.SetLinger(0)
		c.Close()
	}
}

func (b *bait) hear(c *net.UDPConn) {
	for p := make([]byte, 1<<10); ; {
		n, from, err := c.ReadFromUDPAddrPort(p)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		b.note(c.LocalAddr(), string(p[:n]))
		_, _ = c.WriteToUDPAddrPort(p[:n], from)
	}
}

func (b *bait) note(at net.Addr, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if netip.MustParseAddrPort(at.String()).Addr().Unmap() != neighbour {
		b.reached = append(b.reached, fmt.Sprintf("%s at %s", what, at))
	}
}

// caught gives what has reached the bait since it was last asked.
func (b *bait) caught() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.reached
	b.reached = nil
	return all
}

// deceit is a DNS server under which names have addresses that they must not have: by
// A or AAAA, behind aliases, or beside one that may be reached. Any other name is this host.
type deceit struct {
	of map[string][]dnsmessage.Resource
}

// newDeceit gives a server, and the names that it deceives with: one for each address.
func newDeceit(at []netip.Addr) (d deceit, names []string) {
	d.of = make(map[string][]dnsmessage.Resource)
	good := neighbour.String()
	for i, a := range at {
		name := fmt.Sprintf("%d.%s.test", i, [...]string{"direct", "alias", "mixed", "mixed"}[i%4])
		of := func(address string) dnsmessage.Resource { return record(name+".", 0, address) }
		d.of[name+"."] = [...][]dnsmessage.Resource{
			{of(a.String())},
			{of("second.test."), record("second.test.", 9, "third.test."), record("third.test.", 0, a.String())},
			{of(a.String()), of(good)},
			{of(good), of(a.String())},
		}[i%4]
		names = append(names, name)
	}
	return d, names
}

func (d deceit) respond(query []byte) [][]byte {
	q, err := parseDNS(query)
	if err != nil {
		return nil
	}
	name := q.question.Name.String()
	known, ok := d.of[strings.ToLower(name)]
	if !ok {
		known = []dnsmessage.Resource{record(name, 0, "127.0.0.9"), record(name, 0, "::1")}
	}
	known = slices.DeleteFunc(slices.Clone(known), func(r dnsmessage.Resource) bool {
		return r.Header.Type != q.question.Type && r.Header.Type != dnsmessage.TypeCNAME
	})
	b, err := q.reply(dnsmessage.RCodeSuccess, known...)
	if err != nil {
		return nil
	}
	return [][]byte{b}
}

// trial is a server that is asked for forbidden things in every way that there is.
type trial struct {
	*house
	bait  *bait
	exit  *Exit
	hosts []string // that must not be reached, in every spelling
	own   []string // and those of this host

	session     *extent
	association *udp.Association // in the session
	visit       *Visit
}

func newTrial(t *testing.T, allow Allow, text string) *trial {
	t.Helper()
	x := &trial{bait: newBait(t), hosts: slices.Clone(disguises)}
	var at []netip.Addr
	for _, s := range spellings {
		if s.becomes == goes {
			continue
		}
		x.hosts = append(x.hosts, s.host)
		a, err := netip.ParseAddr(strings.Trim(s.host, "[]"))
		if err == nil && a.Zone() == "" && !a.Is4In6() { // others are no answers
			at = append(at, a)
		}
	}
	d, names := newDeceit(at)
	x.hosts = append(x.hosts, names...)
	for _, a := range x.bait.own {
		x.own = append(x.own, a.String(), "["+a.String()+"]")
		if a.Is4() {
			x.own = append(x.own, "64:ff9b::"+a.String(), "::ffff:"+a.String())
		}
	}
	x.exit = &Exit{Allow: allow, Upstream: []netip.AddrPort{listenDNS(t, func(q []byte, _ bool) [][]byte { return d.respond(q) })}}
	for _, a := range x.bait.own {
		x.exit.Own = append(x.exit.Own, netip.AddrPortFrom(a, x.bait.port))
	}
	x.house = newHouse(t, func(c *Config) {
		c.Relay = x.exit
		if text != "" {
			c.Policy = rules(t, text)
		}
	})
	x.session = x.attachLanes(x.device("anna"), 1)
	var err error
	x.visit, err = x.Visit(t.Context(), Visitor{User: "bob"})
	x.must(err)
	t.Cleanup(x.visit.Close)
	return x
}

// inSession are ways which give whether somebody was told that he got through.
func (x *trial) inSession() map[string]func(host string) bool {
	return map[string]func(string) bool{
		"CONNECT in a session": func(host string) bool { return x.request(socks.Connect, host) },
		"BIND in a session":    func(host string) bool { return x.request(socks.Bind, host) },
		"UDP in a session":     x.datagramInSession,
	}
}

// ways are these, and those without a session.
func (x *trial) ways() map[string]func(host string) bool {
	all := map[string]func(string) bool{
		"SOCKS 4a at a door": x.byDoor(func(host string) string { return "\x04\x01" + x.port() + "\x00\x00\x00\x01me\x00" + host + "\x00" }, "\x00\x5a"),
		"SOCKS 5 at a door": x.byDoor(func(host string) string {
			return "\x05\x01\x00" + "\x05\x01\x00\x03" + string([]byte{byte(len(host))}) + host + x.port()
		}, "\x05\x00\x05\x00"),
		"HTTP CONNECT at a door": x.byDoor(func(host string) string {
			at := host + ":" + strconv.Itoa(int(x.bait.port))
			return "CONNECT " + at + " HTTP/1.1\r\nHost: " + at + "\r\n\r\n"
		}, "HTTP/1.1 200"),
		"HTTP at a door": x.byDoor(func(host string) string {
			return fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: public.example\r\nConnection: close\r\n\r\n", host, x.bait.port)
		}, "HTTP/1.1 200"),
		"connection of a guest": func(host string) bool { return x.guest(host, x.connectOfGuest) },
		"datagram of a guest":   func(host string) bool { return x.guest(host, x.datagramOfVisit) },
		"datagram of a visitor": func(host string) bool { return x.datagramOfVisit(socks.Addr{Name: host, Port: x.bait.port}) },
	}
	maps.Copy(all, x.inSession())
	return all
}

func (x *trial) port() string { return string(binary.BigEndian.AppendUint16(nil, x.bait.port)) }

// request makes a request in the session.
func (x *trial) request(command socks.Command, host string) bool {
	dst, err := socks.NewAddr(host, x.bait.port)
	if err != nil || command == socks.Bind && dst.IP.IsValid() && dst.IP.Unmap().IsUnspecified() { // whoever may come, may
		return false
	}
	stream, code := x.session.lanes[0].request(command, dst)
	defer stream.Reset()
	return code == socks.Succeeded
}

// datagramInSession sends one. Whether it has come is seen at the bait, in the end.
func (x *trial) datagramInSession(host string) bool {
	if dst, err := socks.NewAddr(host, x.bait.port); err == nil {
		x.association.Deliver(letter(dst, "to "+host))
	}
	return false
}

// byDoor has a door of the server's told something, and looks for how it answers if it
// does what it is told.
func (x *trial) byDoor(say func(host string) string, yes string) func(string) bool {
	door := &socks.Door{Relay: x.visit, UDP: socks.UDP{Off: true}}
	return func(host string) bool {
		hosts := []string{host}
		if strings.Contains(host, ":") && !strings.Contains(host, "[") {
			hosts = append(hosts, "["+host+"]")
		}
		return slices.ContainsFunc(hosts, func(host string) bool {
			near, far := duplex(x.t)
			ctx, cancel := context.WithCancel(x.ctx)
			x.running.Go(func() { door.ServeConn(ctx, far) })
			defer near.Close()
			defer cancel()
			near.SetDeadline(time.Now().Add(patience))
			_, err := io.WriteString(near, say(host))
			x.must(err)
			answer := make([]byte, len(yes))
			n, _ := io.ReadFull(near, answer)
			return bytes.Equal(answer[:n], []byte(yes))
		})
	}
}

// guest has a guest of WireGuard's try: it has no names, and no spellings.
func (x *trial) guest(host string, try func(socks.Addr) bool) bool {
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && try(socks.Addr{IP: a, Port: x.bait.port})
}

func (x *trial) connectOfGuest(dst socks.Addr) bool {
	c, _, err := x.visit.Connect(x.t.Context(), socks.Request{Command: socks.Connect, Dst: dst, Dialect: socks.WireGuard})
	if err != nil {
		return false
	}
	c.Reset()
	return true
}

// datagramOfVisit sends one, and waits until it is dropped or answered.
func (x *trial) datagramOfVisit(dst socks.Addr) bool {
	x.t.Helper()
	in := newMailbox()
	a, _, err := x.visit.Associate(x.t.Context(), socks.Request{Command: socks.Associate}, in)
	x.must(err)
	defer a.Close()
	drops := func() uint64 { d := x.exit.Drops(); return d.Denied + d.Full + d.Unknown }
	before := drops()
	a.Send(to(dst, "to "+dst.String()))
	for deadline := time.Now().Add(patience); drops() == before; time.Sleep(50 * time.Microsecond) {
		select {
		case d := <-in.mail:
			return d.Addr.IP != neighbour
		default:
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("what becomes of a datagram to %q is not known", dst)
		}
	}
	return false
}

// open wants every way to lead to the bait, as long as nothing is forbidden.
func (x *trial) open() {
	x.t.Helper()
	x.association, _, _ = x.session.lanes[0].associate(x.house)
	for name, try := range x.ways() {
		told := try("127.0.0.9")
		if name == "BIND in a session" {
			if !told {
				x.t.Errorf("%s fails where nothing is forbidden", name)
			}
			continue
		}
		eventually(x.t, name, func() bool { return len(x.bait.caught()) > 0 })
	}
}

// shut wants no way to lead anywhere.
func (x *trial) shut(when string, ways map[string]func(string) bool) {
	x.t.Helper()
	var in *mailbox
	x.association, in, _ = x.session.lanes[0].associate(x.house)
	tries := 0
	for name, try := range ways {
		hosts := x.hosts
		if x.exit.Allow != (Allow{}) || name != "BIND in a session" {
			hosts = slices.Concat(hosts, x.own) // without rules, they are no targets, but they may be peers
		}
		for _, host := range hosts {
			tries++
			neighbourly := strings.HasSuffix(host, ".mixed.test") && x.exit.Allow.Loopback // it leads to the neighbour
			if try(host) && !neighbourly {
				x.t.Errorf("%s: %s: %q gets through", when, name, host)
			}
			for _, what := range x.bait.caught() {
				x.t.Errorf("%s: %s: at %q the bait has caught %s", when, name, host, what)
			}
		}
	}
	if x.exit.Allow.Loopback { // what was sent in the session before this has come by now, if it ever does
		x.association.Deliver(letter(socks.Addr{IP: neighbour, Port: x.bait.port}, "good"))
		for string(in.next(x.t).Payload) != "good" {
		}
	}
	if all := x.bait.caught(); len(all) > 0 {
		x.t.Errorf("%s: the bait has caught %q", when, all)
	}
	x.t.Logf("%s: %d tries of %d hosts", when, tries, len(x.hosts)+len(x.own))
}

// resume has the session go on with another carrier.
func (x *trial) resume() {
	x.session.lanes[0].link.Close()
	x.session.resume(0, "192.0.2.99:4712")
	x.status("session that goes on", func(st Status) bool { return st.Resumes == 1 })
}

func TestNoSpellingOfWhatTheExitForbidsGetsThrough(t *testing.T) {
	x := newTrial(t, Allow{}, "")
	x.shut("at first", x.ways())
	x.resume()
	x.shut("after a resume", x.inSession())
}

func TestNoSpellingOfWhatRulesForbidGetsThrough(t *testing.T) {
	x := newTrial(t, Allow{Loopback: true, Private: true, LinkLocal: true}, "[[rule]]\nthen = \"allow\"\n")
	own := ""
	for _, a := range x.bait.own {
		own += fmt.Sprintf(", %q", a)
	}
	x.open()
	x.SetPolicy(rules(t, `
[[rule]]
networks = ["127.0.0.2"]
then = "allow"
[[rule]]
networks = [
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
	"::/8", "fc00::/7", "fe80::/10", "ff00::/8"`+own+`]
then = "deny"
[[rule]]
then = "allow"
`))
	x.shut("after a reload", x.ways())
	x.resume()
	x.shut("after a resume", x.inSession())
}

// What is public stays so inside of IPv6, where a translator takes it out again.
func TestPublicAddressesInIPv6AreNotForbidden(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, "[[rule]]\nnetworks = [\"10.0.0.0/8\", \"127.0.0.0/8\", \"64:ff9b:1::/48\"]\nthen = \"deny\"\n[[rule]]\nnetworks = [\"0.0.0.0/0\", \"2000::/3\"]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	wish := v.petition(socks.Request{Command: socks.Connect})
	for _, public := range []string{"8.8.8.8", "1.1.1.1", "93.184.215.14", "9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.1", "172.32.0.1", "192.169.0.1", "223.255.255.254"} {
		for _, a := range wrapped(netip.MustParseAddr(public)) {
			if nat64 := netip.MustParsePrefix("64:ff9b:1::/48"); nat64.Contains(a) || a.Is6() && a.As16()[0] == 0 && a.As16()[1] == 0 && !a.Is4In6() {
				continue // of a local translator's, and IPv4-compatible: nobody routes these
			}
			at := netip.AddrPortFrom(a, 443)
			if err := errors.Join((&Exit{}).Judge(netip.AddrPortFrom(a.Unmap(), 443)), wish.permit("", at), wish.permit("some.example", at)); err != nil {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
}
