package decide

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/adit-net/adit/server/policy"
)

// Question is what is to be decided. Its request names an address unless it is to resolve
// a name.
type Question struct {
	Who     policy.Who
	Request policy.Request
}

// The types of AuthZEN entities that there are here.
const (
	userType   = "user"
	targetType = "target"
)

// commands are the names of actions.
var commands = [...]string{"connect", "bind", "associate", "resolve", "ping"}

// evaluation is the Access Evaluation request (AuthZEN section 6.1).
type evaluation struct {
	Subject  *subject  `json:"subject,omitempty"`
	Action   *action   `json:"action,omitempty"`
	Resource *resource `json:"resource,omitempty"`
	Context  *scene    `json:"context,omitempty"`
}

type subject struct {
	Type       string            `json:"type"`
	ID         string            `json:"id"`
	Properties subjectProperties `json:"properties,omitzero"`
}

type subjectProperties struct {
	Groups     []string   `json:"groups,omitempty"`
	Device     string     `json:"device,omitempty"`
	From       netip.Addr `json:"from,omitzero"`
	Door       string     `json:"door,omitempty"`
	Method     string     `json:"method,omitempty"`
	Protection []string   `json:"protection,omitempty"`
	Cipher     string     `json:"cipher,omitempty"`
}

// IsZero tells whether nothing is known beside the user.
func (p subjectProperties) IsZero() bool {
	return len(p.Groups)+len(p.Protection) == 0 && !p.From.IsValid() && p.Device+p.Door+p.Method+p.Cipher == ""
}

type action struct {
	Name       string           `json:"name"`
	Properties actionProperties `json:"properties,omitzero"`
}

type actionProperties struct {
	Dialect string `json:"dialect,omitempty"`
}

type resource struct {
	Type       string             `json:"type"`
	ID         string             `json:"id"`
	Properties resourceProperties `json:"properties"`
}

type resourceProperties struct {
	Name     string     `json:"name,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`
	Port     *uint16    `json:"port,omitempty"`
	Protocol string     `json:"protocol,omitempty"`
	Carries  string     `json:"carries,omitempty"`
	Signs    []string   `json:"signs,omitempty"`
}

// scene is what AuthZEN calls context.
type scene struct {
	Time string `json:"time,omitempty"`
}

// evaluation writes a question as AuthZEN has it.
func (q Question) evaluation() evaluation {
	w, r := q.Who, q.Request
	host := r.Name
	if host == "" && r.Addr.IsValid() {
		host = r.Addr.String()
	}
	e := evaluation{
		Subject: &subject{userType, w.User, subjectProperties{
			Groups: w.Groups, Device: w.Device, From: w.From.Unmap().WithZone(""), Door: w.Door, Method: w.Method, Protection: w.Protection, Cipher: w.Cipher,
		}},
		Action: &action{r.Command, actionProperties{r.Dialect}},
		Resource: &resource{targetType, net.JoinHostPort(host, strconv.Itoa(int(r.Port))), resourceProperties{
			Name: r.Name, Address: r.Addr, Port: &r.Port, Protocol: r.Protocol, Carries: r.Carries, Signs: r.Signs,
		}},
	}
	if !r.Time.IsZero() {
		e.Context = &scene{r.Time.Format(time.RFC3339)}
	}
	return e
}

// key tells questions apart that may have different answers. When it is asked makes no
// difference.
func (q Question) key() ([sha256.Size]byte, error) {
	q.Request.Time = time.Time{}
	b, err := json.Marshal(q.evaluation())
	return sha256.Sum256(b), err
}

// before is the question as it is before anybody knows what is spoken.
func (q Question) before() Question {
	q.Request.Protocol, q.Request.Carries, q.Request.Signs = "", "", nil
	return q
}

// errIncomplete says what AuthZEN requires.
var errIncomplete = errors.New("a subject with type and id, an action with name and a resource with type and id are required")

// question reads what others ask. What they do not say is not known.
func (e evaluation) question(now time.Time) (q Question, err error) {
	s, a, r := e.Subject, e.Action, e.Resource
	if s == nil || a == nil || r == nil || s.Type == "" || s.ID == "" || a.Name == "" || r.Type == "" || r.ID == "" {
		return q, errIncomplete
	}
	switch {
	case s.Type != userType:
		return q, fmt.Errorf("subject: the type is not %q", userType)
	case r.Type != targetType:
		return q, fmt.Errorf("resource: the type is not %q", targetType)
	case !slices.Contains(commands[:], a.Name):
		return q, fmt.Errorf("action: the names are %s", strings.Join(commands[:], ", "))
	}
	p := s.Properties
	q.Who = policy.Who{
		User: s.ID, Groups: p.Groups, Device: p.Device, From: p.From, Door: p.Door, Method: p.Method, Protection: p.Protection, Cipher: p.Cipher,
	}
	q.Request = policy.Request{
		Dialect: a.Properties.Dialect, Command: a.Name, Time: now,
		Protocol: r.Properties.Protocol, Carries: r.Properties.Carries, Signs: r.Properties.Signs,
	}
	if err := q.aim(r); err != nil {
		return q, fmt.Errorf("resource: %w", err)
	}
	if e.Context != nil && e.Context.Time != "" {
		if q.Request.Time, err = parseTime(e.Context.Time); err != nil {
			return q, fmt.Errorf("context: %w", err)
		}
	}
	return q, nil
}

// aim takes over where it is to go: what the properties say, and else the id.
func (q *Question) aim(r *resource) error {
	p := r.Properties
	host, port, err := net.SplitHostPort(r.ID)
	switch {
	case p.Name != "":
		host = p.Name
	case err != nil && p.Address.IsValid():
		host = p.Address.String()
	}
	if p.Port != nil {
		port = strconv.Itoa(int(*p.Port))
	}
	t, target := &q.Request, net.JoinHostPort(host, port)
	if t.Name, t.Addr, t.Port, err = policy.ParseTarget(target); err != nil {
		return err
	}
	if a := p.Address.Unmap(); a.IsValid() {
		if a.Zone() != "" || t.Addr.IsValid() && t.Addr != a {
			return fmt.Errorf("%q is not the address of %q", a, target)
		}
		t.Addr = a
	}
	return nil
}

// parseTime reads a time of RFC 3339, or one without seconds, as AuthZEN's examples have.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04Z07:00", text)
	}
	if err != nil {
		return t, fmt.Errorf("%q is no time of RFC 3339", text)
	}
	return t, nil
}
