/*
Package policy decides by rules who may do what. Rules go in as text, and a decision and the
rule that has made it come out. It opens no file but the system's of time zones.

# The file

A policy is a TOML file. Its rules are gone through in their order, and the first that matches
decides. What no rule matches is denied.

	zone = "Europe/Berlin" # of days and hours; UTC if there is none

	[groups] # beside the groups that users are in already
	partners = ["acme", "widgets"]

	[lists] # names and networks, from files
	ads = "ads.hosts"

	[[rule]]
	name = "no advertisements"
	lists = ["ads"]
	then = "deny"

	[[rule]]
	name = "partners' video"
	groups = ["partners"]
	names = ["media.example.com"]
	networks = ["192.0.2.0/24"]
	protocols = ["rtsp", "hls"]
	days = ["mon-fri"]
	hours = ["08:00-18:00"]
	protection = ["tls", "wireguard", "ipsec"]
	then = "allow"
	ceiling_down = "8 Mbit/s"

	[[expect]]
	user = "acme"
	to = "media.example.com:554"
	address = "192.0.2.7"
	protocol = "rtsp"
	protection = ["tls"]
	at = 2026-07-01T09:30:00+02:00
	outcome = "allow"
	rule = "partners' video"

# Clauses

A rule matches if all its clauses do; one without any matches everything. A clause is
a list of words and matches if one of them does. A word with an exclamation mark before it is
an exception: if it matches, the clause does not. A clause of nothing but
exceptions matches everything else.

	users, groups, devices   who asks
	from                     networks that he comes from
	doors                    what he comes in by: the address that a door listens on, or "session" or "wireguard"
	methods                  by which he has proved who he is: device, guest, password, gssapi, certificate, ike, network
	protection               of the path: tls, wireguard, ipsec, ipsec:aes-gcm or ipsec:aes-gcm-128 (what ESP
	                         encrypts with), ipsec:stated (by word of the administrator), gss-integrity,
	                         gss-confidentiality (which is integrity as well), none
	ciphers                  of the path, as TLS calls them

	dialects                 socks4, socks4a, socks5, socks6, http-connect, http, wireguard, direct
	commands                 connect, bind, associate, resolve, ping
	asked                    whether for a name or an address
	names                    www.example.com; .example.com for that and all below it; with * and ? within a label
	networks                 192.0.2.0/24, or one address
	ports                    443, or 8000-8100
	protocols                application protocols, or @ and a group of them, or unknown
	signs                    other-host: it names another host than was asked for; misplaced: the port is
	                         another protocol's; doubtful; none
	lists                    of the table [lists]: the name or the address is on one

	days                     sat, or mon-fri
	hours                    08:00-18:00, or 22:00-06:00 for both ends of a day
	zone                     of days and hours in this rule
	when                     an expression, see below

Ports of bind and ping are 0. An address of NAT64 (RFC 6052) is the IPv4 address in it, and
where another one leads into a tunnel, what is at its end has to be allowed, too.

Names are compared in lower case, without a dot behind them, and in ASCII. A clause of
names judges the name that was asked for, and one of networks the address that it has: a
rule with both demands both. An address that was asked for has no name, and no word of
names matches it.

# Outcomes

"then" is "allow" or "deny". A rule that allows may limit what it allows:

	rate_up, rate_down           what its flows have for sure together: "1 Mbit/s"
	ceiling_up, ceiling_down     what they have at most
	quota_per_day                of each user: "10 GB"
	quota_per_month
	max_flows                    of each user at once: 20
	idle, total                  time-outs: "5m", "8h"
	record                       full; summary: all but where a flow goes; none: what is
	                             allowed is on no record; a look-up, of which a rule may
	                             yet decide, has a summary then
	udp_filtering                of datagrams from what the rule allows: endpoint-independent,
	                             address-dependent or address-and-port-dependent (RFC 4787)
	require_ipsec                true: only while IPsec protects the path, see below
	patience                     how long flows wait for that: "30s"

# IPsec that is required

A rule with require_ipsec denies what it matches while IPsec does not protect the path:
a request that comes then, is refused. Flows that there are stand still, in both
directions, until the path is protected again; after patience they are reset. Datagrams are dropped
meanwhile. The clause protection = ["ipsec"] is another thing: without IPsec its rule
does not match, and the ones behind it decide, also about flows that there are.

The path is that from the app to the server, as far as it is not on one machine: a session's
carrier, or an app's connection to a door of the server's. What is behind the server, the
rule says nothing of. The server ties the path to what protects it before the first such flow
passes anything; where that cannot be done, as for datagrams at a door and for WireGuard's guests, it
is not protected.

A session may have another carrier meanwhile, and its other flows go on there. But what the
server has sent of a flow that stands still and the client has not got, only a protected
carrier may bring: the session waits for one as long as there is such a flow, and is over if it comes
back by another one after that. What a client sends by a carrier of its own choice is the
client's concern, see require_ipsec in client.toml; the server passes nothing of it on meanwhile.

# Expressions

"when" is for what the clauses cannot say: an expression that is true or false.

	when = 'user == device or len(groups) > 1 and not (name endsWith ".test")'
	when = 'hour * 60 + minute >= 8 * 60 + 30 and address in ["192.0.2.0/24", "2001:db8::/32"]'

Its words are texts: user, device, door, method, cipher, dialect, command, name, protocol, carries
and weekday ("mon"); numbers: port, hour and minute; lists of texts: groups and protection; and
addresses: from and address. Texts stand in quotes, double ones as in Go or single ones
with nothing special between them; numbers are whole; lists stand in brackets.

	or and not, || && !                    not binds more than and, and that more than or
	== !=                                  of two texts, numbers or addresses
	< <= > >=                              of two numbers
	in, not in                             a text or a number in a list, an address in networks
	contains startsWith endsWith matches   of two texts; a pattern is as in package regexp
	+ - *                                  of two numbers
	len(…) lower(…)                        how long a text or a list is; a text in lower case

An expression ends soon, and cannot fail. A text that method, protection, dialect, command, name or
weekday can never equal is refused: a name is in lower case and ASCII.

# Stages

A name's address is known after its look-up, and a protocol after some bytes. Before that,
a request is neither allowed nor denied as long as what is not known yet can make a
difference.

# Examples

An [[expect]] is a request in the singular of the words above, and the outcome and the
rule that it is to have. Examples are decided before a policy takes effect, which it
does not if one has another outcome. With neither address nor protocol, the outcome
may be "needs address" or "needs protocol".
*/
package policy
