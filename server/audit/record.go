// Package audit is the flow warehouse: records in, answers out. It keeps a SQLite file
// for each day in a directory of its own, to which a [Writer] only ever adds, and which
// a [Reader] asks questions. Every batch of records is sealed with a hash over itself and
// the seal before it, so that [Verify] finds what was changed, taken out or swapped later on.
//
// # Other stores
//
// Whatever makes records knows a Writer and nothing of files. A store that several exits
// share, such as PostgreSQL or ClickHouse, is filled from this one, which is its outbox:
// [Reader.Follow], in any process that may read the directory, gives the records of all kinds that have ended
// from the one on whose Seq the other store has last. So no flow waits for a store that is
// far away or down, a record that was committed here gets there however often either side
// crashes, and one that comes twice is known by its Exit and ID. A gap in Seq tells that files went
// before they had been read: Config.Keep must be longer than the other store is away.
package audit

import (
	"net/netip"
	"time"
)

// Kind is what a record is about.
type Kind int64

// The kinds. Their numbers are in the files.
const (
	Flow    Kind = 1 // one request of an app's, from the decision to its end
	Session Kind = 2 // one session, or a stay at a door
	Login   Kind = 3 // somebody has proved who he is
	Failure Kind = 4 // somebody has not
	Policy  Kind = 5 // the rules have changed
	Act     Kind = 6 // an administrator, or adit itself, has done something
)

var kindNames = [...]string{Flow: "flow", Session: "session", Login: "login", Failure: "failure", Policy: "policy", Act: "act"}

func (k Kind) String() string {
	if k < 1 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Decision is what became of a request.
type Decision int64

// The decisions. Their numbers are in the files.
const (
	Undecided Decision = 0 // the record is not about a request
	Allowed   Decision = 1
	Refused   Decision = 2
)

func (d Decision) String() string {
	switch d {
	case Allowed:
		return "allowed"
	case Refused:
		return "refused"
	}
	return ""
}

// Origin is who asks, and by what way: the same for many records.
type Origin struct {
	Exit    string // the server's name
	Session string // its id
	User    string
	Device  string
	Groups  string // of the user, sorted, with commas between
	Source  netip.Addr

	Door    string // where apps come in; empty for a session's streams
	Dialect string // "socks5"
	Method  string // by what the user has proved who he is: "device", "password"

	// What protects the path, in words.
	Carrier     string // "tls"
	Version     string // "TLS 1.3"
	KeyExchange string // "X25519MLKEM768"
	Cipher      string // "TLS_AES_128_GCM_SHA256"
	IPsec       string
	GSS         string
}

// Record is one line in the warehouse. What does not apply is zero. Texts may hold
// anything; see [Clean] for what is kept of them.
type Record struct {
	Seq  int64  // its place in the warehouse; 0 while what it is about goes on
	ID   string // of the flow or session; the Writer gives it
	Kind Kind

	Origin
	SourcePort uint16

	Begin    time.Time     // kept to the millisecond
	Duration time.Duration // kept to the millisecond
	Open     bool          // it goes on: the numbers are of a minute ago at most

	Command  string     // "connect"
	Name     string     // that was asked for; empty if it was an address
	Address  netip.Addr // that was dialled
	Port     uint16
	Protocol string // of the application
	Host     string // that the application named: TLS's SNI, HTTP's Host

	Decision Decision
	Rule     string // that has decided

	Up, Down       int64 // bytes from app to target and back
	Sent, Received int64 // datagrams from app to target and back

	Connect   time.Duration // until the target had answered; kept to the microsecond
	FirstByte time.Duration // until its first byte; kept to the microsecond

	Resumes int    // how often the session has changed its carrier meanwhile
	End     string // how it ended
	What    string // what was done, for all that is no flow and no session; of a flow, what a decider has said
}
