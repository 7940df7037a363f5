package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// What there is to look at.
const (
	flowsView = iota
	sessionsView
	refusalsView
	topViews
)

func viewNames() []string { return []string{"flows", "sessions", "refusals"} }

// topView is what adit top knows, and what of that it shows.
type topView struct {
	view     int
	by       [topViews]int // the column to sort by
	reversed [topViews]bool
	filter   string
	first    int // row that is to be seen at the top

	now      topReport
	up, down float64 // bytes a second, of all flows
	flows    []moving[flowReport]
	sessions []moving[sessionReport] // and guests
	failed   error                   // why there is no newer report
}

// moving is something whose bytes are counted, and how many there are a second.
type moving[T any] struct {
	is       T
	up, down float64
}

// newTopView gives one that is sorted by what comes down, and by time.
func newTopView() *topView { return &topView{by: [topViews]int{flowsView: 2, sessionsView: 2}} }

// take takes a new report, of the same server or of one that has taken over from it.
func (v *topView) take(r topReport) {
	for _, g := range r.Guests {
		r.Sessions = append(r.Sessions, guestSession(g))
	}
	before := v.now
	seconds := r.At.Sub(before.At).Seconds()
	if !r.Since.Equal(before.Since) {
		before, seconds = topReport{}, 0 // nobody knows since when
	}
	v.up, v.down = speed(r.Totals.Up-before.Totals.Up, seconds), speed(r.Totals.Down-before.Totals.Down, seconds)
	v.flows = measure(r.Flows, before.Flows, seconds,
		func(f flowReport) int64 { return f.ID }, func(f flowReport) (up, down int64) { return f.Up, f.Down })
	v.sessions = measure(r.Sessions, before.Sessions, seconds,
		func(s sessionReport) string { return s.ID + " " + s.DeviceID }, func(s sessionReport) (up, down int64) { return s.Up, s.Down })
	v.now, v.failed = r, nil
}

// guestSession shows a guest as if he had a session.
func guestSession(g guestReport) sessionReport {
	return sessionReport{
		ID: g.Address, User: g.User, Device: g.Device, DeviceID: g.DeviceID, Remote: g.Remote, Since: g.Since,
		Streams: g.Flows, Up: g.Up, Down: g.Down, Protection: protectionReport{Version: "guest", KeyExchange: "WireGuard"},
	}
}

func measure[T any, K comparable](now, before []T, seconds float64, key func(T) K, count func(T) (up, down int64)) []moving[T] {
	earlier := make(map[K]T, len(before))
	for _, x := range before {
		earlier[key(x)] = x
	}
	all := make([]moving[T], len(now))
	for i, x := range now {
		up, down := count(x)
		if e, ok := earlier[key(x)]; ok {
			u, d := count(e)
			up, down = up-u, down-d
		}
		all[i] = moving[T]{x, speed(up, seconds), speed(down, seconds)}
	}
	return all
}

// speed is bytes a second, or 0 if nobody knows in how many.
func speed(bytes int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return max(0, float64(bytes)/seconds)
}

func rate(perSecond float64) string { return size(int64(perSecond)) + "/s" }

func flowColumns() []column[moving[flowReport]] {
	type row = moving[flowReport]
	return []column[row]{
		textColumn("USER", func(x row) string { return x.is.User }),
		textColumn("TARGET", func(x row) string { return cmp.Or(x.is.Target, "datagrams") }),
		numberColumn("DOWN/S", func(x row) float64 { return x.down }, shortSize),
		numberColumn("UP/S", func(x row) float64 { return x.up }, shortSize),
		numberColumn("DOWN", func(x row) float64 { return float64(x.is.Down) }, shortSize),
		ageColumn("FOR", func(x row) time.Time { return x.is.Since }),
		textColumn("PROTOCOL", func(x row) string { return x.is.Protocol }),
		numberColumn("UP", func(x row) float64 { return float64(x.is.Up) }, shortSize),
		textColumn("RULE", func(x row) string { return x.is.Rule }),
		textColumn("COMMAND", func(x row) string { return x.is.Command }),
		textColumn("DEVICE", func(x row) string { return x.is.Device }),
		textColumn("SOURCE", func(x row) string { return x.is.Source }),
		textColumn("DIALECT", func(x row) string { return x.is.Dialect }),
		textColumn("HOST", func(x row) string { return x.is.Host }),
		textColumn("ADDRESS", func(x row) string { return x.is.Address }),
	}
}

func sessionColumns() []column[moving[sessionReport]] {
	type row = moving[sessionReport]
	return []column[row]{
		textColumn("USER", func(x row) string { return x.is.User }),
		textColumn("DEVICE", func(x row) string { return x.is.Device }),
		numberColumn("DOWN/S", func(x row) float64 { return x.down }, shortSize),
		numberColumn("UP/S", func(x row) float64 { return x.up }, shortSize),
		numberColumn("FLOWS", func(x row) float64 { return float64(x.is.Streams) }, counted),
		ageColumn("FOR", func(x row) time.Time { return x.is.Since }),
		textColumn("STATE", func(x row) string { return x.is.state() }),
		numberColumn("DOWN", func(x row) float64 { return float64(x.is.Down) }, shortSize),
		numberColumn("UP", func(x row) float64 { return float64(x.is.Up) }, shortSize),
		numberColumn("RESUMED", func(x row) float64 { return float64(x.is.Resumes) }, counted),
		numberColumn("RTT", func(x row) float64 { return x.is.RoundTripMs }, roundTrip),
		textColumn("REMOTE", func(x row) string { return x.is.Remote }),
		textColumn("SESSION", func(x row) string { return x.is.ID }),
	}
}

func refusalColumns() []column[refusalReport] {
	type row = refusalReport
	return []column[row]{
		ageColumn("AGO", func(x row) time.Time { return x.Time }),
		textColumn("USER", func(x row) string { return x.User }),
		textColumn("COMMAND", func(x row) string { return x.Command }),
		textColumn("TARGET", func(x row) string { return x.Target }),
		numberColumn("TIMES", func(x row) float64 { return float64(x.Times) }, counted),
		textColumn("WHY", func(x row) string { return x.Why }),
		textColumn("SOURCE", func(x row) string { return x.Source }),
	}
}

// textColumn is sorted from A to Z.
func textColumn[T any](title string, text func(T) string) column[T] {
	return column[T]{title: title, text: text, order: func(a, b T) int { return cmp.Compare(text(a), text(b)) }}
}

// numberColumn has the largest number first.
func numberColumn[T any](title string, number func(T) float64, text func(float64) string) column[T] {
	return column[T]{
		title: title, right: true,
		text:  func(x T) string { return text(number(x)) },
		order: func(a, b T) int { return cmp.Compare(number(b), number(a)) },
	}
}

// ageColumn has the youngest first.
func ageColumn[T any](title string, of func(T) time.Time) column[T] {
	return column[T]{
		title: title, right: true,
		text:  func(x T) string { return age(time.Since(of(x))) },
		order: func(a, b T) int { return of(b).Compare(of(a)) },
	}
}

func counted(n float64) string { return strconv.Itoa(int(n)) }

// shortSize is size in as few cells as can be, and nothing for nothing.
func shortSize(n float64) string {
	if n < 1 {
		return "-"
	}
	for _, unit := range []string{"", "K", "M", "G", "T"} {
		if n < 1000 {
			if unit == "" || n >= 100 {
				return fmt.Sprintf("%.0f%s", n, unit)
			}
			return fmt.Sprintf("%.1f%s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1fP", n)
}

// age says how long ago something was, in its two largest units.
func age(d time.Duration) string {
	s := int(max(d, 0).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// titles are those of the columns there are.
func (v *topView) titles() []string {
	switch v.view {
	case sessionsView:
		return titlesOf(sessionColumns())
	case refusalsView:
		return titlesOf(refusalColumns())
	}
	return titlesOf(flowColumns())
}

func titlesOf[T any](columns []column[T]) (all []string) {
	for _, c := range columns {
		all = append(all, c.title)
	}
	return all
}

// table is what there is to see, with the rows that fit the filter.
func (v *topView) table() table {
	by, reversed := v.by[v.view], v.reversed[v.view]
	switch v.view {
	case sessionsView:
		return tabulate(v.sessions, sessionColumns(), by, reversed, v.filter)
	case refusalsView:
		return tabulate(v.now.Refusals, refusalColumns(), by, reversed, v.filter)
	}
	return tabulate(v.flows, flowColumns(), by, reversed, v.filter)
}

// population says who is here, in a few words, and traffic what is going on.
func (v *topView) population() string {
	t := v.now.Totals
	open := strconv.Itoa(t.Open)
	if t.Open > len(v.now.Flows) && len(v.now.Flows) == maxTopFlows {
		open += fmt.Sprintf(" (the largest %d are shown)", maxTopFlows)
	}
	return fmt.Sprintf("sessions %d, flows %s", len(v.now.Sessions), open)
}

func (v *topView) traffic() string {
	t := v.now.Totals
	return fmt.Sprintf("down %s, up %s   refused %d, failed %d, logins denied %d", rate(v.down), rate(v.up), t.Refused, t.Failed, t.Denied)
}

// turn goes on to another view, and step to another column to sort by.
func (v *topView) turn(n int) { v.view, v.first = (v.view+n+topViews)%topViews, 0 }

func (v *topView) step(n int) {
	columns := len(v.titles())
	v.by[v.view] = (v.by[v.view] + n + columns) % columns
}

// look is v for a view and a column by their names, which there may not be.
func (v *topView) look(view, by string) error {
	if v.view = slices.Index(viewNames(), view); v.view < 0 {
		return fmt.Errorf("--view: there is no view %q", view)
	}
	if by == "" {
		return nil
	}
	if v.by[v.view] = slices.Index(v.titles(), by); v.by[v.view] < 0 {
		return fmt.Errorf("--sort: there is no column %q", by)
	}
	return nil
}
