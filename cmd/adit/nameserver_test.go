package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a DNS server for scripts: "nameserver ADDRESS NAME=IP…". It answers
// over UDP alone, and prints what it is asked for.
func nameServer() {
	pc, err := net.ListenPacket("udp", os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	addrs := make(map[string]netip.Addr)
	for _, arg := range os.Args[2:] {
		name, ip, _ := strings.Cut(arg, "=")
		addrs[name+"."] = netip.MustParseAddr(ip)
	}
	fmt.Println("ready")
	b := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if answer, err := answerName(b[:n], addrs); err == nil {
			_, _ = pc.WriteTo(answer, from)
		}
	}
}

// answerName answers a query, by names that are known in lower case.
func answerName(query []byte, addrs map[string]netip.Addr) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	h.Response, h.RecursionAvailable = true, true
	m := dnsmessage.Message{Header: h, Questions: []dnsmessage.Question{q}}
	name := strings.ToLower(q.Name.String())
	a, ok := addrs[name]
	fmt.Println("asked for", name, q.Type)
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: a.As4()},
		}}
	}
	return m.Pack()
}
