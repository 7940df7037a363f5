package sniff

import "bytes"

// maxMethod is the longest method that is taken for one, in bytes.
const maxMethod = 24

// request is the test for what HTTP/1 gave its form: HTTP itself, RTSP, SIP and
// SHOUTcast sources, told apart by the last word of the first line, for they
// share methods. HTTP/2 begins with a line that looks like theirs.
func request(h head) answer {
	method, ok := firstWord(h.b)
	switch {
	case !ok && len(h.b) <= maxMethod && method == len(h.b):
		return want(len(h.b) + 1)
	case !ok:
		return no()
	case string(h.b[:method]) == "PRI":
		return preface(h)
	}
	if h.eol == 0 {
		if p := methodOf(h.b[:method]); p != "" {
			return looksLike(p, text)
		}
		return want(text)
	}
	p := versionOf(h.line()[method:])
	if p == "" {
		return no()
	}
	if h.eoh == 0 {
		return surelyIs(p, text)
	}
	return is(p)
}

// firstWord gives how many bytes a method has, and whether the space behind it
// is here.
func firstWord(b []byte) (n int, ok bool) {
	for n = range min(len(b), maxMethod+1) {
		switch c := b[n]; {
		case c == ' ':
			return n, n > 0
		case 'A' <= c && c <= 'Z', n > 0 && (c == '-' || c == '_'):
		default:
			return n, false
		}
	}
	return min(len(b), maxMethod+1), false
}

// methodOf is what a method makes likely.
func methodOf(method []byte) Protocol {
	switch string(method) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "REPORT", "MKCOL":
		return HTTP
	case "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "RECORD":
		return RTSP
	case "INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "PRACK", "SUBSCRIBE", "PUBLISH", "REFER", "MESSAGE", "UPDATE":
		return SIP
	case "SOURCE":
		return ICY
	}
	return ""
}

// versionOf tells the protocol by the last word of what follows the method.
func versionOf(line []byte) Protocol {
	i := bytes.LastIndexByte(line, ' ')
	if i < 0 {
		return ""
	}
	last := line[i+1:]
	name, digits, ok := bytes.Cut(last, []byte("/"))
	if ok && len(digits) == 3 && digits[1] == '.' {
		switch string(name) {
		case "HTTP":
			return HTTP
		case "RTSP":
			return RTSP
		case "SIP":
			return SIP
		case "ICE":
			return ICY
		}
	}
	if i == 0 && len(last) > 0 && last[0] == '/' {
		return HTTP // 0.9: a path and no more
	}
	return ""
}

// response is the test for the first line of an answer.
func response(h head) answer {
	for _, s := range [...]struct {
		magic    string
		protocol Protocol
	}{{"HTTP/1.", HTTP}, {"RTSP/1.", RTSP}, {"RTSP/2.", RTSP}, {"SIP/2.0 ", SIP}, {"ICY 200", ICY}, {"ICY 40", ICY}} {
		switch begins(h.b, s.magic) {
		case sure:
			return is(s.protocol)
		case perhaps:
			return want(len(h.b) + 1)
		}
	}
	return no()
}

// fields goes through the lines of a head behind the first, as far as they are
// here, and gives name and value of each.
func fields(b []byte, use func(name, value []byte)) {
	_, b, _ = bytes.Cut(b, []byte("\n"))
	for {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		line = bytes.TrimRight(line, "\r")
		if !ended || len(line) == 0 {
			return
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok {
			use(bytes.TrimSpace(name), bytes.TrimSpace(value))
		}
		b = rest
	}
}

// target is the second word of a request line.
func target(line []byte) []byte {
	_, rest, _ := bytes.Cut(line, []byte(" "))
	word, _, _ := bytes.Cut(rest, []byte(" "))
	return word
}

// readRequest adds to a verdict what the head of a request says.
func readRequest(v *Verdict, h head) {
	if h.eol == 0 {
		return
	}
	line := h.line()
	where := target(line)
	switch {
	case bytes.HasPrefix(line, []byte("CONNECT ")):
		v.Host = hostOf(where)
	case len(where) > 0 && where[0] != '/' && where[0] != '*':
		v.Host = hostOfURI(where)
	}
	if v.Protocol == HTTP {
		v.Carries = byPath(where)
	}
	named := ""
	fields(h.b, func(name, value []byte) {
		switch {
		case equalFold(name, "host") && v.Protocol == HTTP:
			host := hostOf(value)
			if named != "" && host != named {
				v.Doubt = "two Host fields that differ"
			}
			named = host
			if v.Host == "" {
				v.Host = host
			}
		case equalFold(name, "upgrade"), equalFold(name, "content-type"), equalFold(name, "accept"), equalFold(name, "icy-metadata"):
			if c := byField(name, value); c != "" {
				v.Carries = c
			}
		case equalFold(name, "realchallenge"), equalFold(name, "clientchallenge"):
			if v.Protocol == RTSP {
				v.Carries = RDT
			}
		}
	})
}

func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && bytes.EqualFold(b, []byte(s))
}
