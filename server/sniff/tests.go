package sniff

// upTests and downTests are asked in this order, and one counts only when all
// before it said no. Those that need few bytes come first.
var upTests = [...]test{
	clientHello,
	request,
	signature,
	tpkt,
	postgres,
	socks,
	telnet,
	mqtt,
	redis,
	ldap,
	kerberosOfTCP,
	git,
	xmpp,
	command,
	dnsOfTCP,
	openVPN,
	lateSignature,
}

var downTests = [...]test{
	serverHello,
	response,
	signature,
	telnet,
	greeting,
	mysql,
	xmpp,
}
