package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
)

const (
	// dnsTimeout is how long an answer may take.
	dnsTimeout = 5 * time.Second

	maxExchanges = 1024 // under way at once, of which a user has a share

	// maxUDPAnswer is the longest answer over UDP. It fits every path without
	// fragments (RFC 9715 section 3).
	maxUDPAnswer = 1232

	minUDPAnswer = 512 // which everybody takes (RFC 1035 section 4.2.1)

	dnsHeader = 12 // bytes before the question
)

// exchanges is what all calls of Exchange share.
type exchanges struct {
	open shares

	mu      sync.Mutex
	asked   time.Time // when the system's servers were last looked for
	written time.Time // when somebody last changed them
	servers []netip.AddrPort

	once     sync.Once
	resolver *net.Resolver // see [Exit.resolver]
}

var (
	errExchanges = errors.New("too many DNS exchanges are under way")
	errNoQuery   = errors.New("it is an answer")
	errQuestions = errors.New("it does not have one question")
)

// Exchange answers a DNS query (RFC 1035 section 4) as the resolver of this host would,
// for devices that have none of their own: it asks Upstream. Of the request it heeds who
// makes it and whether that permits the name. tcp tells that the query came over TCP. An answer that is too long for UDP is cut off, with the
// TC bit set. What deserves no answer is an error, and so is what nobody can wait
// for.
func (e *Exit) Exchange(ctx context.Context, r socks.Request, query []byte, tcp bool) ([]byte, error) {
	if !e.exchanges.open.take(r.User, maxExchanges) {
		return nil, errExchanges
	}
	defer e.exchanges.open.give(r.User)
	q, err := parseDNS(query)
	if err != nil {
		return nil, fmt.Errorf("read DNS query: %w", err)
	}
	if r.Permits(q.question.Name.String(), netip.AddrPortFrom(netip.Addr{}, 53)) != nil {
		return q.reply(dnsmessage.RCodeRefused)
	}
	waiting, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	answer, err := e.answer(waiting, q)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		// The app is told no more than that, and who asks servers in turn goes on.
		return q.reply(dnsmessage.RCodeServerFailure)
	}
	if limit := q.limit(); !tcp && len(answer) > limit {
		return q.truncated(answer)
	}
	return answer, nil
}

// answer gives the answer to a query, however long.
func (e *Exit) answer(ctx context.Context, q dnsQuery) ([]byte, error) {
	switch {
	case q.header.OpCode != 0:
		return q.reply(dnsmessage.RCodeNotImplemented)
	case q.question.Class != dnsmessage.ClassINET, q.transfers():
		return q.reply(dnsmessage.RCodeRefused)
	case e.Resolver != nil && q.forAddress():
		return q.lookUp(ctx, e.Resolver)
	}
	if q.forAddress() || q.question.Type == dnsmessage.TypePTR {
		// As for CONNECT, what the host's own file of names has comes first.
		if bodies, err := q.records(ctx, hostsFile()); err == nil && len(bodies) > 0 {
			return q.answered(bodies)
		}
	}
	servers := e.Upstream
	if len(servers) == 0 {
		servers = e.systemServers()
	}
	if len(servers) == 0 {
		return q.lookUp(ctx, e.resolver())
	}
	return q.forward(ctx, e.Steer, servers)
}

// hostsFile gives a resolver that knows the names in this host's file of names
// and asks nobody.
func hostsFile() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, errAsksNobody },
	}
}

var errAsksNobody = errors.New("no server is to be asked")

// dnsQuery is a query with one question.
type dnsQuery struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	edns     bool // whoever asks speaks EDNS(0) (RFC 6891),
	size     int  // and takes answers of so many bytes over UDP
	dnssec   bool // with signatures
}

func parseDNS(message []byte) (q dnsQuery, err error) {
	var p dnsmessage.Parser
	if q.header, err = p.Start(message); err != nil {
		return q, err
	}
	if q.header.Response {
		return q, errNoQuery
	}
	questions, err := p.AllQuestions()
	if err != nil {
		return q, err
	}
	if len(questions) != 1 {
		return q, errQuestions
	}
	q.question = questions[0]
	if err := errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return q, err
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, nil
		}
		if err != nil {
			return q, err
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns, q.size, q.dnssec = true, int(h.Class), h.DNSSECAllowed()
		}
		if err := p.SkipAdditional(); err != nil {
			return q, err
		}
	}
}

func (q dnsQuery) forAddress() bool {
	return q.question.Type == dnsmessage.TypeA || q.question.Type == dnsmessage.TypeAAAA
}

// transfers tells whether the query is for a whole zone (RFC 5936, RFC 1995).
func (q dnsQuery) transfers() bool {
	const ixfr = 251
	return q.question.Type == dnsmessage.TypeAXFR || q.question.Type == ixfr
}

// limit gives the length of the longest answer over UDP.
func (q dnsQuery) limit() int { return min(max(q.size, minUDPAnswer), maxUDPAnswer) }

// reply answers without asking any server.
func (q dnsQuery) reply(code dnsmessage.RCode, answers ...dnsmessage.Resource) ([]byte, error) {
	return q.message(dnsmessage.Header{Response: true, RecursionAvailable: true, RCode: code}, answers)
}

// truncated gives what is left of an answer that is too long.
func (q dnsQuery) truncated(answer []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil {
		return nil, err
	}
	h.Truncated = true
	return q.message(h, nil)
}

// message makes a message with the query's question and what goes with it.
func (q dnsQuery) message(h dnsmessage.Header, answers []dnsmessage.Resource) ([]byte, error) {
	h.ID, h.OpCode = q.header.ID, q.header.OpCode
	h.RecursionDesired, h.CheckingDisabled = q.header.RecursionDesired, q.header.CheckingDisabled
	m := dnsmessage.Message{Header: h, Questions: []dnsmessage.Question{q.question}, Answers: answers}
	if q.edns {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		if err := opt.Header.SetEDNS0(maxUDPAnswer, 0, q.dnssec); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{opt}
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("make DNS message: %w", err)
	}
	return b, nil
}
