package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// States returns what Wait can wait for.
func States() []string { return []string{string(WaitSSH), StateRunning, StateStopped, StateDetached} }

// Wait waits until a server is in a state, by whatever command: ssh (it runs,
// and answers there), running, stopped, or detached (its instance is gone).
// What can't come any more without another verb is an error at once.
func (m *Manager) Wait(ctx context.Context, name, state string) (*Server, error) {
	if !slices.Contains(States(), state) {
		return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q can't be waited for", state), Remedy: "--for " + strings.Join(States(), ", ")}
	}
	s, err := m.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	limit := m.stateTimeout
	if state == string(WaitSSH) {
		limit += m.sshTimeout
	}
	err = m.step("wait until "+state, name, func() error {
		return m.poll(ctx, limit, "to be "+state, "server "+name, func(ctx context.Context) (bool, error) {
			if s, err = m.Get(ctx, name); err != nil {
				return false, err
			}
			return m.hasCome(ctx, s, state)
		})
	})
	if err != nil {
		return nil, wrap("wait for", "server "+name, err)
	}
	return s, nil
}

// hasCome tells whether a server is in the state that is waited for, or will
// never be by itself.
func (m *Manager) hasCome(ctx context.Context, s *Server, state string) (bool, error) {
	switch {
	case state == StateDetached, s.State == StateRescuing:
		return s.State == state, nil
	case s.State == StateDetached || s.State == StateTerminating:
		return false, &Error{Code: KindExists, Reason: "it is " + s.State, Remedy: wayBack(s.Name, s.State)}
	case state == StateStopped:
		return s.State == StateStopped || s.State == StateInterrupted, nil
	case state != string(WaitSSH):
		return s.State == state, nil
	case !opensSSH(s.Open) && !slices.ContainsFunc(s.Rules, func(r string) bool { return strings.HasPrefix(r, "22@") }):
		return false, &Error{Code: KindExists, Reason: "port 22 isn't open, so ssh can't be waited for", Remedy: "stead open " + s.Name + " 22, or --for running"}
	}
	return s.State == StateRunning && s.SSH.Host != "" && m.sshAnswers(ctx, s.SSH), nil
}
