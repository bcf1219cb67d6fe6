package ec2tools

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/pflag"
)

// command is one of the tools: what it is called, and how to make one run of
// it.
type command struct {
	Tool
	args  string // its arguments, for the help: "INSTANCE…"
	begin func() run
}

// run is one run of a command: flags binds its options to itself, and do does
// the work.
type run interface {
	flags(fs *pflag.FlagSet)
	do(ctx context.Context, c *call) error
}

// call is what every run is given.
type call struct {
	args   []string
	out    *rows
	notes  io.Writer
	client func(ctx context.Context) (EC2, error)
	common common
}

// common are the options that all commands have.
type common struct {
	headers, empty, hideTags bool
	help                     bool
	filters                  []string
	endpoint                 Endpoint
}

func (o *common) flags(fs *pflag.FlagSet, describes bool) {
	fs.BoolVarP(&o.headers, "headers", "H", false, "head the columns")
	short := "F"
	if describes {
		short = ""
		fs.StringArrayVarP(&o.filters, "filter", "F", nil, "list only what matches `NAME=VALUE`")
		fs.BoolVar(&o.hideTags, "hide-tags", false, "leave tags out")
	}
	fs.BoolVarP(&o.empty, "show-empty-fields", short, false, "show empty fields as (nil)")
	fs.StringVar(&o.endpoint.Region, "region", "", "the `REGION` to use")
	fs.StringVarP(&o.endpoint.URL, "url", "U", "", "the `URL` of the service")
	fs.StringVarP(&o.endpoint.AccessKeyID, "aws-access-key", "O", "", "access key `ID`")
	fs.StringVarP(&o.endpoint.SecretAccessKey, "aws-secret-key", "W", "", "secret access `KEY`")
	fs.StringVarP(&o.endpoint.SessionToken, "security-token", "T", "", "session `TOKEN`")
	for _, old := range []string{"private-key", "cert"} { // what signed requests in 2011
		fs.StringP(old, map[string]string{"private-key": "K", "cert": "C"}[old], "", "")
		_ = fs.MarkHidden(old)
	}
	fs.BoolP("verbose", "v", false, "")
	_ = fs.MarkHidden("verbose")
	fs.BoolVarP(&o.help, "help", "h", false, "show this help")
}

// describes tells the commands that list, which take filters.
func (c command) describes() bool {
	return len(c.Long) > 0 && strings.HasPrefix(c.Long[0], "ec2-describe-")
}

func (c command) execute(ctx context.Context, connect Connect, args []string, s Streams) error {
	r := c.begin()
	var o common
	fs := pflag.NewFlagSet(c.Short, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = false
	r.flags(fs)
	o.flags(fs, c.describes())
	if err := fs.Parse(args); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return usageError("%v", err)
	}
	if o.help {
		_, err := fmt.Fprintf(s.Stderr, "%s %s [options]\n\n%s.\n\n%s", c.Short, c.args, c.Summary, fs.FlagUsages())
		return err
	}
	given, err := fromStdin(fs.Args(), s.Stdin)
	if err != nil {
		return err
	}
	one := &call{
		args: given, notes: s.Stderr, common: o,
		out: &rows{w: s.Stdout, headers: o.headers, empty: o.empty},
		client: func(ctx context.Context) (EC2, error) {
			return connect(ctx, o.endpoint)
		},
	}
	if err := r.do(ctx, one); err != nil {
		return fmt.Errorf("%s: %w", c.Short, err)
	}
	if one.out.err != nil {
		return fmt.Errorf("%s: %w", c.Short, one.out.err)
	}
	return nil
}

// fromStdin replaces an argument of "-" by the words on stdin.
func fromStdin(args []string, stdin io.Reader) ([]string, error) {
	var all []string
	for _, a := range args {
		if a != "-" || stdin == nil {
			all = append(all, a)
			continue
		}
		words := bufio.NewScanner(stdin)
		words.Split(bufio.ScanWords)
		for words.Scan() {
			all = append(all, words.Text())
		}
		if err := words.Err(); err != nil {
			return nil, fmt.Errorf("read arguments from stdin: %w", err)
		}
	}
	return all, nil
}

// one is the only argument, what tells its name.
func (c *call) one(what string) (string, error) {
	if len(c.args) != 1 {
		return "", usageError("want one %s, not %q", what, strings.Join(c.args, " "))
	}
	return c.args[0], nil
}

// some are the arguments, of which there must be one.
func (c *call) some(what string) ([]string, error) {
	if len(c.args) == 0 {
		return nil, usageError("want one or more of %s", what)
	}
	return c.args, nil
}

// filters reads the filters: several values of one name are one filter.
func (c *call) filters() ([]types.Filter, error) {
	var list []types.Filter
	at := map[string]int{}
	for _, f := range c.common.filters {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" {
			return nil, usageError("filter %q is not NAME=VALUE", f)
		}
		if k, seen := at[name]; seen {
			list[k].Values = append(list[k].Values, value)
			continue
		}
		at[name] = len(list)
		list = append(list, types.Filter{Name: &name, Values: []string{value}})
	}
	return list, nil
}

// listing is what every command that lists begins with.
func (c *call) listing(ctx context.Context) (EC2, []types.Filter, error) {
	filters, err := c.filters()
	if err != nil {
		return nil, nil, err
	}
	client, err := c.client(ctx)
	return client, filters, err
}

// dropOne is what the commands that take one thing away have in common. kind is
// what it is, such as "volume".
func (c *call) dropOne(ctx context.Context, verb, kind string, drop func(client EC2, id string) error) error {
	id, err := c.one(kind)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if err := drop(client, id); err != nil {
		return fmt.Errorf("%s %s %s: %w", verb, kind, id, err)
	}
	c.out.row(strings.ToUpper(kind), strings.ToUpper(kind[:1])+kind[1:]+"ID", id)
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
