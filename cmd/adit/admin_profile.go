package main

import "net/http/pprof"

// profiles let whoever may ask at the admin socket look into the process, as
// go tool pprof wants it: curl --unix-socket DIR/admin.sock http://adit/debug/pprof/heap.
// There is no other way to them.
func profiles() []route {
	return []route{
		{"GET /debug/pprof/", pprof.Index},
		{"GET /debug/pprof/profile", pprof.Profile},
		{"GET /debug/pprof/symbol", pprof.Symbol},
		{"GET /debug/pprof/trace", pprof.Trace},
	}
}
