package sniff

import "bytes"

// A connection may change its protocol: STARTTLS and its kin, CONNECT and
// Upgrade of HTTP. A turn watches for that, and for what HTTP carries.
//
// Whether a server agrees to TLS need not be read: what its client sends next is
// either a ClientHello, which begins like nothing in these protocols, or not.
type turn struct {
	watch   watch
	armed   bool // TLS may come next
	connect bool // the request was CONNECT
	left    int  // bytes of the client that are yet watched

	piece  [48]byte // the line or the head of the message that is coming
	n      int
	skip   int // bytes to the end of this message
	pieces int

	tail   []byte // what the client sent behind its request
	answer head
	need   int
}

type watch uint8

const (
	forNothing  watch = iota
	forLines          // of text, for a word that asks for TLS
	forMessages       // that say how long they are
	forAnswer         // of an HTTP server
	forHello          // of a TLS server
	forFields         // of HTTP/2
)

const (
	turnLimit   = 16 << 10 // bytes until a client must have asked for TLS
	maxMessages = 8
	maxAnswers  = 8 // interim ones
)

// watchOf says how a protocol may change.
func watchOf(p Protocol) watch {
	switch p {
	case SMTP, IMAP, POP3, FTP, NNTP, IRC, XMPP:
		return forLines
	case PostgreSQL, MySQL, RDP, LDAP:
		return forMessages
	case HTTP:
		return forAnswer
	case HTTP2:
		return forFields
	case TLS:
		return forHello
	}
	return forNothing
}

// open begins to watch a connection whose protocol is known. What came of it so
// far is in the sides, but for rest, of either direction.
func (s *Stream) open(upRest, downRest []byte) Verdict {
	up, down := s.up, s.down
	s.up, s.down = side{}, side{}
	s.turn = turn{watch: watchOf(s.verdict.Protocol), left: turnLimit}
	if s.stage++; s.stage >= maxStages {
		s.turn.watch = forNothing
	}
	switch {
	case s.turn.watch == forHello && (s.under != "" || len(up.b) == 0):
		s.turn.watch = forNothing // the server's consent to TLS may still be on its way
	case s.turn.watch == forAnswer && up.eoh == 0:
		s.turn.watch = forNothing
		if len(up.b) > 0 {
			s.verdict.Doubt = "the head of the request is longer than what is read of it"
		}
	case s.turn.watch == forAnswer:
		s.turn.connect = begins(up.b, "CONNECT ") == sure
		up.b = up.b[up.eoh:]
	}
	s.verdict.More = s.turn.watch != forNothing
	stage := s.stage
	for _, b := range [][]byte{up.b, upRest} {
		if len(b) > 0 {
			s.Up(b)
		}
	}
	if s.stage != stage {
		down = side{} // it was the answer to what is over
	}
	for _, b := range [][]byte{down.b, downRest} {
		if len(b) > 0 {
			s.Down(b)
		}
	}
	return s.now()
}

// now is the verdict, settled or not.
func (s *Stream) now() Verdict {
	if s.settled {
		return s.verdict
	}
	return s.pending()
}

// restart begins anew with what each side sent in the new protocol. Until there is
// any, the verdict stands.
func (s *Stream) restart(under Protocol, up, down []byte) Verdict {
	*s = Stream{stage: s.stage, before: s.verdict, under: under}
	if len(up) > 0 {
		s.Up(up)
	}
	if len(down) > 0 {
		s.Down(down)
	}
	return s.now()
}

// end ends the watch: the verdict stands.
func (s *Stream) end() Verdict {
	s.verdict.More, s.turn = false, turn{}
	return s.verdict
}

// afterUp watches what a client sends when its protocol is known.
func (s *Stream) afterUp(b []byte) Verdict {
	t := &s.turn
	switch t.watch {
	case forLines, forMessages:
		at := t.client(s.verdict.Protocol, b)
		if at >= 0 {
			return s.restart(s.verdict.Protocol, b[at:], nil)
		}
		if t.left -= len(b); t.left <= 0 || t.watch == forNothing {
			return s.end()
		}
	case forAnswer:
		t.hold(b)
	case forFields:
		return s.fieldsOf2(b)
	}
	return s.verdict
}

// afterDown watches what the server sends when the protocol is known.
func (s *Stream) afterDown(b []byte) Verdict {
	switch {
	case s.turn.watch == forAnswer:
		return s.answerOf1(b)
	case s.turn.watch == forHello && len(b) > 0:
		if b[0] != recordHandshake && b[0] != recordAlert {
			s.verdict.Doubt = "the answer is not of TLS"
		}
		return s.end()
	}
	return s.verdict
}

// hold keeps what comes behind a request, as far as it may be looked at later.
func (t *turn) hold(b []byte) {
	t.tail = append(t.tail, b[:min(len(b), limit-len(t.tail))]...)
}

// client goes through what a client sends, line by line or message by message,
// and gives where TLS begins, or -1.
func (t *turn) client(p Protocol, b []byte) int {
	for i := 0; i < len(b) && t.watch != forNothing; {
		if t.armed && t.n == 0 && t.skip == 0 {
			if b[i] == recordHandshake {
				return i
			}
			t.armed = p == LDAP
		}
		if t.watch == forLines {
			i += t.line(p, b[i:])
		} else {
			i += t.message(p, b[i:])
		}
	}
	return -1
}

// line takes one line, or as much of it as is here. An element of XMPP ends as a
// line does elsewhere.
func (t *turn) line(p Protocol, b []byte) int {
	end := byte('\n')
	if p == XMPP {
		end = '>'
	}
	i := bytes.IndexByte(b, end)
	line := b
	if i >= 0 {
		line = b[:i]
	}
	t.n += copy(t.piece[t.n:], line)
	if i < 0 {
		return len(b)
	}
	t.armed, t.n = asksForTLS(p, t.piece[:t.n]), 0
	return i + 1
}

// asksForTLS tells whether a line of a client wants to go on with TLS.
func asksForTLS(p Protocol, line []byte) bool {
	line = bytes.TrimSpace(line)
	word, rest, _ := bytes.Cut(line, []byte(" "))
	switch p {
	case SMTP, NNTP, IRC:
		return equalFold(line, "starttls")
	case POP3:
		return equalFold(line, "stls")
	case FTP:
		return equalFold(word, "auth")
	case IMAP:
		return equalFold(bytes.TrimSpace(rest), "starttls")
	case XMPP:
		return bytes.HasPrefix(line, []byte("<starttls"))
	}
	return false
}

// message takes of one message what is here.
func (t *turn) message(p Protocol, b []byte) int {
	if t.skip > 0 {
		n := min(t.skip, len(b))
		t.skip -= n
		return n
	}
	t.piece[t.n] = b[0]
	t.n++
	size, tls, ok := messageOf(p, t.piece[:t.n])
	switch {
	case ok && (!tls || size < t.n || t.pieces == maxMessages), t.n == len(t.piece):
		t.watch = forNothing
	case ok:
		t.skip, t.armed, t.n = size-t.n, true, 0
		t.pieces++
	}
	return 1
}

// messageOf gives the size of a message by its first bytes, and whether TLS may
// follow on it. It is not ok as long as they are too few.
func messageOf(p Protocol, b []byte) (size int, tls, ok bool) {
	switch {
	case p == LDAP && len(b) >= 2:
		size, n := berLength(b[1:])
		return 1 + n + size, n > 0, n != 0
	case len(b) < 4:
		return 0, false, false
	case p == RDP:
		return int(b[2])<<8 | int(b[3]), true, true
	case p == PostgreSQL: // only requests without a start-up packet are this short
		return 8, string(b) == "\x00\x00\x00\x08", true
	case p == MySQL: // an SSL request is the beginning of a log-in, without the user
		return 36, uint24LE(b) == 32, true
	}
	return 0, false, false
}

// fieldsOf2 waits for the first request of HTTP/2.
func (s *Stream) fieldsOf2(b []byte) Verdict {
	t := &s.turn
	t.hold(b)
	if len(t.tail) < t.need {
		return s.verdict
	}
	block, need := firstHeaders(t.tail)
	if need > 0 && need <= limit {
		t.need = need
		return s.verdict
	}
	if block != nil {
		readHeaders(&s.verdict, block)
	}
	return s.end()
}

// answerOf1 waits for the answer to the first request of HTTP/1, tells what it
// carries, and whether the connection is not of HTTP from here on.
func (s *Stream) answerOf1(b []byte) Verdict {
	t := &s.turn
	for {
		used := min(len(b), limit-len(t.answer.b))
		t.answer.b, b = append(t.answer.b, b[:used]...), b[used:]
		t.answer.scan()
		if begins(t.answer.b, "HTTP/1.") == never && begins(t.answer.b, "ICY ") == never {
			s.verdict.Doubt = "the answer is not of HTTP"
			return s.end()
		}
		if t.answer.eoh == 0 {
			break
		}
		a := readAnswer(t.answer)
		if a.status/100 != 1 || a.status == 101 {
			return s.answered(a, b)
		}
		if t.pieces++; t.pieces == maxAnswers {
			return s.end()
		}
		t.answer = head{b: t.answer.b[t.answer.eoh:]}
	}
	if len(t.answer.b) == limit {
		return s.end()
	}
	return s.verdict
}

// answered acts on an answer whose head is here. rest is what was not kept.
func (s *Stream) answered(a answerHead, rest []byte) Verdict {
	t := &s.turn
	body := t.answer.b[t.answer.eoh:]
	if a.status == 101 && s.verdict.Carries != "" {
		return s.end() // what goes on is told by it
	}
	if a.status == 101 || t.connect && a.status/100 == 2 {
		v := s.restart(HTTP, t.tail, body)
		if len(rest) > 0 && v.More {
			v = s.Down(rest)
		}
		return v
	}
	if t.connect {
		return s.refused(a, len(body)+len(rest))
	}
	carries, open := byBody(body)
	if open && a.length != len(body) && len(rest) == 0 {
		if a.carries != "" {
			s.verdict.Carries = a.carries
		}
		return s.verdict
	}
	if carries == "" {
		carries = a.carries
	}
	if carries != "" {
		s.verdict.Carries = carries
	}
	return s.end()
}

// refused goes on to the next request after a CONNECT that was refused, as one
// without a password is. came is how much of the answer's body is here.
func (s *Stream) refused(a answerHead, came int) Verdict {
	if a.length < came {
		return s.end()
	}
	tail := s.turn.tail
	s.restart(s.verdict.Under, nil, nil)
	s.skip = a.length - came
	if len(tail) > 0 {
		return s.Up(tail)
	}
	return s.now()
}
