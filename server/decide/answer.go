package decide

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/adit-net/adit/server/policy"
)

// Answer is what a decider says.
type Answer struct {
	// Outcome is Allow, Deny, NeedsProtocol, or NeedsAddress for a name that is to be
	// resolved.
	Outcome policy.Outcome

	// Reason is the decider's own, if it gives one: one line that can be printed.
	Reason string

	// Err is why the decider has given no answer, or none that counts. The outcome is then
	// what [Config] says.
	Err error

	At   time.Time // when it was given
	vain time.Time // when it was asked for anew and there was none
}

// String says it in one line.
func (a Answer) String() string {
	switch {
	case a.Err != nil:
		return fmt.Sprintf("%s: no answer: %v", a.Outcome, a.Err)
	case a.Reason != "":
		return a.Outcome.String() + ": " + a.Reason
	}
	return a.Outcome.String()
}

const (
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 64 << 10

	// maxReason bounds what is kept of a reason, in runes.
	maxReason = 200
)

var errNoDecision = errors.New("the answer says neither yes nor no")

// An object is one of JSON, whose keys are taken as they are written: [json.Unmarshal]
// into a struct takes others for them.
type object map[string]json.RawMessage

// UnmarshalJSON takes no key twice: who decides and who reads it could mean different ones.
func (o *object) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return errors.New("it is no object")
	}
	all := make(object)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name := key.(string) // of a valid object
		if _, twice := all[name]; twice {
			return fmt.Errorf("%q is there twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		all[name] = value
	}
	*o = all
	return nil
}

// readObject reads an object that nothing follows.
func readObject(b []byte) (o object, err error) {
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return o, nil
}

// is tells what a key says, and whether it is there and true or false.
func (o object) is(key string) (value, ok bool) {
	var b *bool
	if json.Unmarshal(o[key], &b) != nil || b == nil {
		return false, false
	}
	return *b, true
}

// text gives "" for what is no text.
func (o object) text(key string) (s string) {
	if json.Unmarshal(o[key], &s) != nil {
		return ""
	}
	return s
}

// in gives the object at a key, which may be empty.
func (o object) in(key string) (inner object) {
	if json.Unmarshal(o[key], &inner) != nil {
		return nil
	}
	return inner
}

// readAuthZEN reads the Access Evaluation response (AuthZEN section 6.2).
func readAuthZEN(b []byte) (Answer, error) {
	o, err := readObject(b)
	if err != nil {
		return Answer{}, err
	}
	yes, ok := o.is("decision")
	if !ok {
		return Answer{}, errNoDecision
	}
	return o.in("context").answer(yes), nil
}

// readOPA reads the response of OPA's data API. A document that is not defined allows
// nothing.
func readOPA(b []byte) (Answer, error) {
	o, err := readObject(b)
	if err != nil {
		return Answer{}, err
	}
	if _, defined := o["result"]; !defined {
		return Answer{Reason: "the document is not defined"}, nil
	}
	if yes, ok := o.is("result"); ok {
		return object(nil).answer(yes), nil
	}
	result := o.in("result")
	yes, ok := result.is("allow")
	if !ok {
		return Answer{}, errNoDecision
	}
	return result.answer(yes), nil
}

// answer reads what is said beside yes or no.
func (o object) answer(yes bool) Answer {
	a := Answer{Reason: o.reason()}
	switch needs := o.text("needs"); {
	case yes:
		a.Outcome = policy.Allow
	case needs == "protocol":
		a.Outcome = policy.NeedsProtocol
	case needs == "address":
		a.Outcome = policy.NeedsAddress
	}
	return a
}

// reason finds a reason in the places where deciders give one: for administrators before
// that for users, and in English before other languages.
func (o object) reason() string {
	for _, key := range []string{"reason", "reason_admin", "reason_user"} {
		if s := o.text(key); s != "" {
			return plain(s)
		}
		said := o.in(key)
		for _, language := range append([]string{"en"}, slices.Sorted(maps.Keys(said))...) {
			if s := said.text(language); s != "" {
				return plain(s)
			}
		}
	}
	return ""
}

// plain makes one line that can be printed of a text, and no long one.
func plain(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(text, "?") {
		if n++; n > maxReason {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
