package policy

import (
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
)

const listText = `# a comment
127.0.0.1 localhost
255.255.255.255 broadcasthost
fe80::1%lo0 localhost
ff02::1 ip6-allnodes
0.0.0.0 0.0.0.0
0.0.0.0 Ads.Example.NET tracker.example.net # two of them
:: six.example.net ip6-ads.example.net

plain.example
.below.example
*.star.example
192.0.2.0/24
2001:db8::7
bücher.example
`

func TestAListHasWhatItsLinesSay(t *testing.T) {
	l, err := ReadList("ads.hosts", strings.NewReader(listText))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"ads.example.net": true, "tracker.example.net": true, "six.example.net": true, "ip6-ads.example.net": true, "ip6-allnodes": false, "www.ads.example.net": false, "example.net": false,
		"plain.example": true, "a.plain.example": false, "below.example": true, "a.b.below.example": true, "notbelow.example": false,
		"star.example": true, "a.star.example": true, "localhost": false, "xn--bcher-kva.example": true, "example": false,
	} {
		if l.HasName(name) != want {
			t.Errorf("%s is on the list: %t", name, !want)
		}
	}
	for addr, want := range map[string]bool{"192.0.2.200": true, "192.0.3.1": false, "2001:db8::7": true, "2001:db8::8": false} {
		if l.HasAddr(netip.MustParseAddr(addr)) != want {
			t.Errorf("%s is on the list: %t", addr, !want)
		}
	}
	if l.Names() != 8 || l.Networks() != 2 {
		t.Errorf("it has %d names and %d networks", l.Names(), l.Networks())
	}
}

func TestAnEmptyListHasNothing(t *testing.T) {
	var l List
	if l.HasName("example.com") || l.HasAddr(netip.MustParseAddr("192.0.2.1")) {
		t.Error("it has something")
	}
}

func TestALineThatIsNoneOfAListIsSaid(t *testing.T) {
	for _, line := range []string{"a b", "192.0.2.1 ads.example.net", "ads.example.net/path", "||ads.example.net^", "192.0.2.1/24", strings.Repeat("a", 1<<17)} {
		if _, err := ReadList("ads", strings.NewReader("a.example\n"+line)); err == nil || !strings.HasPrefix(err.Error(), "ads:2: ") {
			t.Errorf("%.40s: error is %v", line, err)
		}
	}
}

// A name on a list denies before the address is known; an address denies a name that is
// on none.
func TestListsScreenNamesAndAddresses(t *testing.T) {
	p := read(t, "[lists]\nbad = \"bad\"\n[[rule]]\nlists = [\"bad\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n")
	c := p.For(Who{})
	for _, one := range []struct {
		name, addr string
		want       Outcome
	}{
		{"a.evil.example", "", Deny}, {"good.example", "", NeedsAddress}, {"good.example", "203.0.113.1", Allow},
		{"good.example", "198.51.100.7", Deny}, {"", "198.51.100.7", Deny}, {"", "203.0.113.1", Allow},
	} {
		q := Request{Name: one.name}
		if one.addr != "" {
			q.Addr = netip.MustParseAddr(one.addr)
		}
		if d := c.Decide(q); d.Outcome != one.want {
			t.Errorf("%s %s: %s", one.name, one.addr, d)
		}
	}
}

// millionNames writes a list, piece by piece.
type millionNames struct{ next, count int }

func (m *millionNames) Read(b []byte) (int, error) {
	if m.next == m.count {
		return 0, io.EOF
	}
	m.next++
	return copy(b, fmt.Sprintf("0.0.0.0 host%d.advertisements%d.example\n", m.next, m.next%1000)), nil
}

func TestAMillionNamesTakeLessThan100MB(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	l, err := ReadList("million", &millionNames{count: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 100e6 || l.Names() != 1_000_000 {
		t.Errorf("%d names take %d bytes", l.Names(), used)
	}
	if !l.HasName("host999999.advertisements999.example") || l.HasName("host1000001.advertisements1.example") {
		t.Error("it does not have what it was given")
	}
}

func BenchmarkListHasName(b *testing.B) {
	l, err := ReadList("million", &millionNames{count: 1_000_000})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.HasName("www.nobody.example.com")
	}
}
