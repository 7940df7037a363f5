// Package cfx protects messages with a Kerberos key: the per-message tokens of the
// Kerberos mechanism of GSS-API (RFC 4121 section 4.2.6.2), for the AES
// encryption types of RFC 3962 and RFC 8009.
//
// A [Context] is what two sides have agreed on when one has verified the other's
// ticket, which is a matter of the package gss. It needs neither a keytab nor a
// KDC any more, so it can be exported and go on elsewhere.
package cfx
