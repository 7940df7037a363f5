package resume

import "syscall"

// yieldProcessor lets other threads have the processor that wait for it. As this may take
// long, Go may run others meanwhile.
func yieldProcessor() { syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
