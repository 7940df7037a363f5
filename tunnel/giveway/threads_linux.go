package giveway

import "syscall"

func toThreads() { syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
