package sniff

import "bytes"

// greeting is the test for servers that speak first, in lines of text.
func greeting(h head) answer {
	b := h.b
	if len(b) < 4 {
		return want(4).unless(!isText(b))
	}
	switch string(b[:4]) {
	case "+OK ", "+OK\r":
		return is(POP3)
	case "-ERR":
		return looksLike(POP3, text)
	case "220 ", "220-", "200 ", "201 ":
		return greeting200(h)
	}
	for _, s := range [...]sign{
		{"* OK", IMAP}, {"* PREAUTH", IMAP}, {"* BYE", IMAP},
		{":?", ""}, {"NOTICE AUTH", IRC}, {"NOTICE * ", IRC},
	} {
		switch g := begins(b, s.magic); {
		case g == perhaps:
			return want(len(s.magic))
		case g == sure && s.protocol != "":
			return is(s.protocol)
		case g == sure:
			return noticeOfIRC(h)
		}
	}
	return no()
}

// greeting200 tells FTP, SMTP and NNTP apart, which number their lines alike. What
// the line does not say, the client's first command will.
func greeting200(h head) answer {
	p := FTP
	if h.b[1] == '0' {
		p = NNTP
	}
	if h.eol == 0 {
		return looksLike(p, text)
	}
	line := bytes.ToLower(h.line())
	for _, word := range [...]sign{{"smtp", SMTP}, {"ftp", FTP}, {"nntp", NNTP}, {"news", NNTP}, {"inn ", NNTP}} {
		if bytes.Contains(line, []byte(word.magic)) && (p == NNTP) == (word.protocol == NNTP) {
			return is(word.protocol)
		}
	}
	return looksLike(p, text)
}

// noticeOfIRC is for a line with the name of the server in front.
func noticeOfIRC(h head) answer {
	if !isText(h.begun()) {
		return no()
	}
	if h.eol == 0 {
		return want(text)
	}
	return when(bytes.Contains(h.line(), []byte(" NOTICE ")), IRC)
}

// isText tells whether the beginning of a line may be one of text.
func isText(b []byte) bool {
	for _, c := range b[:min(len(b), 64)] {
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			return false
		}
	}
	return true
}

// command is the test for the first line of a client, where protocols have
// commands. Those that several of them share make one of them likely.
func command(h head) answer {
	if !isText(h.begun()) {
		return no()
	}
	if h.eol == 0 {
		return want(text)
	}
	line := h.line()
	word, rest, _ := bytes.Cut(line, []byte(" "))
	switch upper(word) {
	case "EHLO", "HELO", "LHLO":
		return when(len(rest) > 0, SMTP)
	case "FEAT", "SYST", "PASV", "EPSV":
		return is(FTP)
	case "AUTH":
		return when(equalFold(rest, "tls") || equalFold(rest, "ssl"), FTP)
	case "USER":
		if bytes.Count(rest, []byte(" ")) >= 3 {
			return is(IRC)
		}
		return looksLike(FTP, text).unless(len(rest) == 0)
	case "CAPA", "STLS", "APOP":
		return is(POP3)
	case "NICK":
		return when(len(rest) > 0, IRC)
	case "CAP":
		return when(bytes.HasPrefix(rest, []byte("LS")) || bytes.HasPrefix(rest, []byte("REQ")), IRC)
	case "PASS":
		return looksLike(IRC, text).unless(len(rest) == 0)
	case "CAPABILITIES":
		return is(NNTP)
	case "MODE":
		return when(equalFold(rest, "reader"), NNTP)
	case "GROUP", "ARTICLE", "LIST":
		return looksLike(NNTP, text)
	case "PING":
		return looksLike(Redis, text).unless(len(rest) > 0)
	}
	return commandInLower(word, rest)
}

// commandInLower is for memcached, whose commands are in lower case, for IMAP,
// whose lines begin with a tag, and for syslog.
func commandInLower(word, rest []byte) answer {
	switch string(word) {
	case "stats", "version", "flush_all":
		return is(Memcached)
	case "get", "gets", "mg":
		return when(len(rest) > 0, Memcached)
	case "set", "add", "replace", "append", "prepend":
		return when(bytes.Count(rest, []byte(" ")) >= 3, Memcached)
	}
	if len(word) > 3 && word[0] == '<' && bytes.HasSuffix(word, []byte(">1")) {
		return is(Syslog)
	}
	tagged, _, _ := bytes.Cut(rest, []byte(" "))
	switch upper(tagged) {
	case "CAPABILITY", "LOGIN", "AUTHENTICATE", "STARTTLS", "ID", "NOOP", "LOGOUT":
		return when(len(word) > 0 && len(word) <= 16, IMAP)
	}
	return no()
}

// xmpp is the test for the beginning of a stream, with or without the
// declaration of XML in front.
func xmpp(h head) answer {
	const (
		declaration = "<?xml"
		stream      = "<stream:stream"
		maxBefore   = 256
	)
	b := h.b
	if len(b) == 0 || b[0] != '<' {
		return want(1).unless(len(b) > 0)
	}
	if begins(b, declaration) == sure {
		at := bytes.Index(b[:min(len(b), maxBefore)], []byte("?>"))
		if at < 0 {
			return want(len(b) + 1).unless(len(b) >= maxBefore)
		}
		b = bytes.TrimLeft(b[at+2:], "\r\n\t ")
	} else if begins(b, declaration) == perhaps {
		return want(len(b) + 1)
	}
	switch begins(b, stream) {
	case perhaps:
		return want(len(h.b) + 1).unless(len(h.b) > 2*maxBefore)
	case never:
		return no()
	}
	if bytes.IndexByte(b, '>') < 0 {
		if len(h.b) < 2*maxBefore {
			return surelyIs(XMPP, len(h.b)+1)
		}
	}
	return is(XMPP)
}

// attribute gives the value of one in the first element that has it.
func attribute(b []byte, name string) string {
	_, rest, ok := bytes.Cut(b, []byte(" "+name+"="))
	if !ok || len(rest) < 2 {
		return ""
	}
	value, _, ok := bytes.Cut(rest[1:], rest[:1])
	if !ok {
		return ""
	}
	return hostname(value)
}

// git is the test for a request to git's own server: 4 digits of length, a
// service and a path.
func git(h head) answer {
	const hex = "0123456789abcdef"
	for i, c := range h.b[:min(len(h.b), 4)] {
		if bytes.IndexByte([]byte(hex), c) < 0 || i == 0 && c != '0' {
			return no()
		}
	}
	if len(h.b) < 4 {
		return want(4)
	}
	size := 0
	for _, c := range h.b[:4] {
		size = size<<4 | bytes.IndexByte([]byte(hex), c)
	}
	switch begins(h.b[4:], "git-") {
	case never:
		return no()
	case perhaps:
		return want(8)
	}
	if len(h.b) < size {
		return surelyIs(Git, size)
	}
	return is(Git)
}

func hostOfGit(b []byte) string {
	_, rest, ok := bytes.Cut(b, []byte("\x00host="))
	if !ok {
		return ""
	}
	host, _, _ := bytes.Cut(rest, []byte{0})
	return hostOf(host)
}
