package policy

import (
	"bufio"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

// List is many names and networks, for screening. A million names take about 40 MB.
// The zero value has none.
type List struct {
	names    nameSet // themselves
	below    nameSet // with all that is below them
	networks bart.Lite
}

// maxListLine is how long a line of a list may be, and maxNames how many bytes names may
// have together.
const (
	maxListLine = 64 << 10
	maxNames    = 1 << 30
)

// ReadList reads a list: a name, an address or a network in each line, and what comes after a #
// is a comment. ".example.com" and "*.example.com" stand for the name and all below
// it. A line of a hosts file is that as well: an address that means nowhere, and
// names. A line that is none of that is an error with the file's name and the line's number.
func ReadList(file string, from io.Reader) (*List, error) {
	l := &List{names: nameSet{seed: maphash.MakeSeed()}, below: nameSet{seed: maphash.MakeSeed()}}
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 4<<10), maxListLine)
	number := 0
	for lines.Scan() {
		number++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if err := l.line(strings.Fields(text)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, number, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", file, number+1, err)
	}
	return l, nil
}

func (l *List) line(words []string) error {
	if len(words) == 0 {
		return nil
	}
	if len(words) == 1 {
		if p, err := parseNetwork(words[0]); err == nil {
			l.networks.Insert(p)
			return nil
		}
		return l.addName(words[0])
	}
	nowhere, err := netip.ParseAddr(words[0])
	names := slices.DeleteFunc(words[1:], hostsOwn)
	if err != nil || len(names) > 0 && !nowhere.IsUnspecified() && !nowhere.IsLoopback() {
		return fmt.Errorf("%q is more than one name or network, and no line of a hosts file that blocks names", strings.Join(words, " "))
	}
	for _, name := range names {
		if err := l.addName(name); err != nil {
			return err
		}
	}
	return nil
}

// hostsOwn tells the names that hosts files give a machine itself and its network.
func hostsOwn(name string) bool {
	switch name = strings.ToLower(name); name {
	case "localhost", "localhost.localdomain", "local", "loopback", "broadcasthost", "0.0.0.0":
		return true
	}
	return strings.HasPrefix(name, "ip6-") && !strings.Contains(name, ".")
}

// addName adds a name, or one with a dot in front that stands for what is below it too.
func (l *List) addName(text string) error {
	to := &l.names
	name, below := strings.CutPrefix(text, "*.")
	if !below {
		name, below = strings.CutPrefix(text, ".")
	}
	if below {
		to = &l.below
	}
	name, err := CanonicalName(name)
	if err != nil {
		return fmt.Errorf("%q is no name and no network", text)
	}
	return to.add(name)
}

// Names is how many names the list has.
func (l *List) Names() int { return l.names.count + l.below.count }

// Networks is how many networks the list has.
func (l *List) Networks() int { return l.networks.Size() }

// HasName tells whether a canonical name is on the list.
func (l *List) HasName(name string) bool {
	if l.names.has(name) {
		return true
	}
	for l.below.count > 0 {
		if l.below.has(name) {
			return true
		}
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			break
		}
		name = name[dot+1:]
	}
	return false
}

// HasAddr tells whether an address is in a network of the list.
func (l *List) HasAddr(a netip.Addr) bool { return l.networks.Contains(a) }

// nameSet is a set of names that takes little more memory than they do.
type nameSet struct {
	seed  maphash.Seed
	text  []byte   // each name behind its length
	slots []uint32 // a hash table of offsets in text, plus 1; 0: free
	count int
}

var errNames = errors.New("the list has too many names")

func (s *nameSet) add(name string) error {
	if 4*(s.count+1) > 3*len(s.slots) {
		s.grow()
	}
	slot := s.slot(name)
	if s.slots[slot] != 0 {
		return nil
	}
	if len(s.text) > maxNames {
		return errNames
	}
	s.slots[slot] = uint32(len(s.text)) + 1
	s.text = append(append(s.text, byte(len(name))), name...)
	s.count++
	return nil
}

func (s *nameSet) has(name string) bool { return s.count > 0 && s.slots[s.slot(name)] != 0 }

// slot gives where a name is, or where it belongs.
func (s *nameSet) slot(name string) int {
	mask := len(s.slots) - 1
	slot := int(maphash.String(s.seed, name)) & mask
	for s.slots[slot] != 0 && string(s.at(s.slots[slot])) != name {
		slot = (slot + 1) & mask
	}
	return slot
}

// at gives the name that a slot speaks of.
func (s *nameSet) at(offset uint32) []byte {
	b := s.text[offset-1:]
	return b[1 : 1+int(b[0])]
}

func (s *nameSet) grow() {
	old := s.slots
	s.slots = make([]uint32, max(64, 2*len(old)))
	for _, offset := range old {
		if offset != 0 {
			s.slots[s.slot(string(s.at(offset)))] = offset
		}
	}
}
