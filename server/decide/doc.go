/*
Package decide has decisions made elsewhere: [Decider] asks an external decision point
about what our own rules allow, and [Point] is one, which decides by our rules for others.

# When it is asked

Each question is asked once at a time, and its answer counts for a while for all who have the same.
What is asked for all the time is asked anew before its answer gets too old. Questions have a time
to be answered in, and there is room for so many of them, of which each user has a share. A decider that
answers nothing several times in a row is taken for dead, and asked one question from time to time until it
answers. Whatever is no answer, as a redirect, a long text or none in time, is what [Config.OnFailure] says: no,
unless somebody has decided otherwise.

# What is counted

adit_decision_seconds is how long it took until the decider had answered. adit_decisions_total counts questions
by result: "allowed", "denied", "needs" (to know more), "failed" (asked, and no answer that counts), and
"unasked", as there are too many or it is taken for dead. Where an answer that is known counts there is no question.

# What is asked

The question is an evaluation of the OpenID AuthZEN Authorization API 1.0:

	{
	  "subject": {"type": "user", "id": "alice", "properties": {
	    "groups": ["staff"], "device": "laptop", "from": "192.0.2.7", "door": "session",
	    "method": "device", "protection": ["tls"], "cipher": "TLS_AES_128_GCM_SHA256"}},
	  "action": {"name": "connect", "properties": {"dialect": "socks6"}},
	  "resource": {"type": "target", "id": "media.example.com:554", "properties": {
	    "name": "media.example.com", "address": "203.0.113.9", "port": 554}},
	  "context": {"time": "2026-07-01T09:30:00+02:00"}
	}

What is empty is left out. The words are those of package policy. OPA gets the same as the
input of POST /v1/data/PATH.

# What is answered

From AuthZEN {"decision": true}, and for OPA {"result": true} or {"result": {"allow": true}}, is
a permission. Everything else is none. A reason is taken from "reason", "reason_admin" or "reason_user"
of the context, or of OPA's result.

A question says at first what is known before anything is sent: no application protocol.
A decider that wants to know what is spoken answers {"decision": false, "context": {"needs": "protocol"}},
or for OPA {"result": {"allow": false, "needs": "protocol"}}, and is asked again with "protocol", "carries" and
"signs" among the resource's properties as soon as these are known.
*/
package decide
