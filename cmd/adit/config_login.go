package main

import (
	"slices"
	"strconv"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/tunnel/socks"
)

// loginConfig says how apps at clients' doors prove to the server which users they are.
type loginConfig struct {
	Methods    []string `toml:"methods"`
	OtherUsers bool     `toml:"other_users"`
	Keytab     string   `toml:"keytab"`
	Services   []string `toml:"services"`   // empty: all of the keytab's
	Realms     []string `toml:"realms"`     // empty: the keytab's
	Protection string   `toml:"protection"` // empty: the strictest
	NEC        bool     `toml:"nec"`
}

// The values of login.methods.
const (
	loginByTicket   = "gssapi"
	loginByPassword = "password"
)

func defaultLoginConfig() loginConfig {
	return loginConfig{Methods: []string{loginByPassword}, Services: []string{}, Realms: []string{}}
}

func (c loginConfig) validate(report func(key, what, todo string)) {
	for i, m := range c.Methods {
		switch {
		case m != loginByTicket && m != loginByPassword:
			report("login.methods", "unknown method "+strconv.Quote(m), "known are: gssapi, password")
		case slices.Contains(c.Methods[:i], m):
			report("login.methods", strconv.Quote(m)+" is named twice", "name each once, the one to prefer first")
		}
	}
	validateKerberos(slices.Contains(c.Methods, loginByTicket), c.Keytab, c.Protection, func(key, what, todo string) {
		report("login"+key, what, todo)
	})
}

func validateKerberos(offered bool, keytab, protection string, report func(key, what, todo string)) {
	if offered != (keytab != "") {
		report(".keytab", "the method gssapi and a keytab go together", "name the file with the keys of rcmd/HOST and socks/HOST")
	}
	if err := new(socks.GSSProtection).UnmarshalText([]byte(protection)); protection != "" && err != nil {
		report(".protection", "unknown protection "+strconv.Quote(protection), "known are: require-conf, require-integ, prefer-client, none")
	}
}

// login reads what the server needs. Relative names are those of files in its directory.
func (c loginConfig) login(dir string) (server.Login, error) {
	l := server.Login{NEC: c.NEC, OtherUsers: c.OtherUsers}
	for _, m := range c.Methods {
		number := socks.MethodPassword
		if m == loginByTicket {
			number = socks.MethodGSSAPI
		}
		l.Methods = append(l.Methods, number)
	}
	if c.Protection != "" {
		if err := l.Protection.UnmarshalText([]byte(c.Protection)); err != nil {
			return l, err
		}
	}
	if c.Keytab == "" {
		return l, nil
	}
	acceptor, err := newAcceptor(dir, c.Keytab, c.Services, c.Realms)
	if err != nil {
		return l, err
	}
	l.Accept = func(token []byte) (server.Ticket, error) {
		context, reply, err := acceptor.Accept(token)
		if err != nil {
			return server.Ticket{}, err
		}
		return server.Ticket{Principal: context.Name(), Reply: reply, Context: context.Export()}, nil
	}
	return l, nil
}
