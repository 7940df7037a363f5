// Package mmsg reads and writes many UDP packets by one system call that never waits,
// where the system can (Linux).
package mmsg
