package server

import (
	"cmp"
	"strings"

	"github.com/adit-net/adit/server/audit"
)

// PathsChanged judges all flows again, as what protects paths below carriers and doors
// has become something else. See [tunnel.Arrival].Below and [Visitor].Came.
func (s *Server) PathsChanged() { s.judgeFlows() }

// KeepsIPsecApart tells whether datagrams to a port are not carried: those of IKE, and of ESP in
// UDP (RFC 3948). IPsec belongs below adit, which may depend on it.
func KeepsIPsecApart(port uint16) bool { return port == 500 || port == 4500 }

// layersOf fills in what the words of a path say to records.
func layersOf(words []string, o *audit.Origin) {
	var carriers []string
	for _, word := range words {
		kind, more, _ := strings.Cut(word, ":")
		gss, ofGSS := strings.CutPrefix(kind, "gss-")
		switch {
		case kind == "ipsec":
			o.IPsec = cmp.Or(more, "yes")
		case ofGSS:
			o.GSS = gss
		default:
			carriers = append(carriers, word)
		}
	}
	o.Carrier = strings.Join(carriers, "+")
}
