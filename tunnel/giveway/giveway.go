// Package giveway is for goroutines that run long without having to wait: others have their
// turn. Go looks for what has come from the network when a processor has no goroutine left to
// run, and else every 10 ms only; and the kernel may find out at its next tick only, which is as
// far away, that another thread has waited long enough for a processor.
package giveway

// ToNetwork has Go find what has come from the network: whoever waits for it runs before the
// caller goes on. It takes some microseconds, and as long as they run.
func ToNetwork() { toNetwork() }

// ToThreads lets other threads have the processor that wait for it. As this may take long, Go
// may run other goroutines meanwhile.
func ToThreads() { toThreads() }
