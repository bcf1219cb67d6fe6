package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/rbin"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/dryrun"
	"github.com/steadcloud/stead/internal/server"
)

// session is a verb's connection to the cloud of its context.
type session struct {
	context  contexts.Context
	servers  *server.Manager
	api      *ec2.Client // what servers is on, for what isn't about servers
	blocks   *ebs.Client
	progress *progress
	local    *localCloud   // nil unless the context is the local one
	plan     *dryrun.Plan  // nil unless this is a dry run
	foreseen *dryrun.Cloud // likewise
	region   string
	charges  bool // it is AWS: what there is has AWS's price
}

func (s *session) close() { s.progress.close() }

// open connects to the current context's cloud. The local one is started if
// it doesn't run.
func (a *App) open(ctx context.Context) (*session, error) {
	c, err := a.currentContext()
	if err != nil {
		return nil, err
	}
	return a.openContext(ctx, c, !a.flags.dryRun)
}

func (a *App) openContext(ctx context.Context, c contexts.Context, start bool) (*session, error) {
	return a.openShown(ctx, c, start, a.newProgress())
}

// openShown is openContext with a progress that others show theirs on too.
func (a *App) openShown(ctx context.Context, c contexts.Context, start bool, p *progress) (*session, error) {
	s := &session{context: c, progress: p, plan: a.plan}
	e := endpoint{context: c}
	if c.Kind == contexts.KindLocal {
		var err error
		if s.local, err = a.openLocal(ctx, s.progress, start); err != nil {
			s.close()
			return nil, err
		}
		e.local = s.local
	}
	cfg, err := a.config(ctx, e)
	if err != nil {
		s.close()
		return nil, err
	}
	s.api = ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint = cfg.BaseEndpoint })
	s.blocks = newBlocksClient(cfg)
	conf := a.managerConfig(s, cfg)
	conf.Regional = func(region string) (*server.Manager, error) {
		far := e
		far.region = region
		cfg, err := a.config(ctx, far)
		if err != nil {
			return nil, err
		}
		if s.plan != nil {
			_ = a.foreseen(cfg)
		}
		conf := a.managerConfig(s, cfg)
		if s.plan != nil {
			conf.Dial = (&dryDial{plan: s.plan}).dial
		}
		return server.New(conf), nil
	}
	s.region = cfg.Region
	if cfg.BaseEndpoint == nil {
		conf.Prices = a.chargedPrices(ctx, c, cfg.Region)
	}
	s.charges = conf.Prices != nil
	if !s.withoutMachines() {
		conf.Guest = &guest{app: a, session: s}
	}
	if s.plan != nil {
		s.foreseen = a.foreseen(cfg)
		s.foreseen.Named(c.Name)
		a.planned = cmp.Or(a.planned, c.Name)
		conf.Dial = (&dryDial{plan: s.plan}).dial
		if conf.Guest != nil {
			conf.Guest = dryGuest{s.plan, conf.Guest}
		}
	}
	s.servers = server.New(conf)
	return s, nil
}

// managerConfig joins a Manager to the region that a configuration leads to.
func (a *App) managerConfig(s *session, cfg aws.Config) server.Config {
	return server.Config{
		EC2:    ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint = cfg.BaseEndpoint }),
		SSM:    ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.BaseEndpoint = cfg.BaseEndpoint }),
		DLM:    dlm.NewFromConfig(cfg, func(o *dlm.Options) { o.BaseEndpoint = cfg.BaseEndpoint }),
		RBin:   rbin.NewFromConfig(cfg, func(o *rbin.Options) { o.BaseEndpoint = cfg.BaseEndpoint }),
		STS:    sts.NewFromConfig(cfg, func(o *sts.Options) { o.BaseEndpoint = cfg.BaseEndpoint }),
		Region: cfg.Region, Name: s.context.Name,
		Blocks: newBlocksClient(cfg), Journals: a.journals(), Plan: s.plan != nil,
		Local:  s.local != nil,
		Log:    a.log(),
		Notify: s.progress.event,
		Now:    a.Now,
		// The local cloud costs nothing to ask and is often quicker than that.
		PollMax: pollMax(s.local != nil),
		// Who says --timeout 20m has a machine that boots slowly.
		SSHTimeout: max(sshTimeout, a.flags.timeout),
	}
}

// sshTimeout bounds a wait for ssh, unless --timeout gives it longer.
const sshTimeout = 5 * time.Minute

// pollMax is the longest pause between two looks; zero is the Manager's own.
func pollMax(local bool) time.Duration {
	if local {
		return 100 * time.Millisecond
	}
	return 0
}

// endpoint says where requests go and who signs them.
type endpoint struct {
	context contexts.Context
	local   *localCloud // of the local context
	// What a command's own options ask for instead, as ec2reg's may.
	region, url string
	keys        aws.CredentialsProvider
}

// config makes the SDK's configuration. Its BaseEndpoint is to be set on each
// client too: the SDK would let AWS_ENDPOINT_URL_EC2 and its like go before
// it, and those variables must not send one context's requests to another.
//
// All clients are made of it, so that --explain and --dry-run hold for each.
func (a *App) config(ctx context.Context, e endpoint) (aws.Config, error) {
	var cfg aws.Config
	var err error
	if e.local != nil {
		cfg = e.local.config()
	} else if cfg, err = e.load(ctx); err != nil {
		return aws.Config{}, err
	}
	if e.region != "" {
		cfg.Region = e.region
	}
	if e.url != "" {
		cfg.BaseEndpoint = &e.url
	}
	if e.keys != nil {
		cfg.Credentials = e.keys
	}
	if cfg.Region == "" {
		return aws.Config{}, &server.Error{
			Code: server.KindUsage, Op: "connect", Resource: "context " + e.context.Name,
			Reason: "no region is set, neither in the context nor in its AWS profile nor in AWS_REGION",
			Remedy: "stead context create NAME --region eu-central-1",
		}
	}
	cfg.HTTPClient = steadyHTTP{awshttp.NewBuildableClient()}
	return a.decorate(cfg), nil
}

// steadyHTTP keeps answers that come faster than the request's body is let go
// of. The SDK closes the body as soon as the answer's head is there, and its
// WriteTo then gives io.EOF, which net/http takes for a failed write: it closes
// the connection with the answer unread. The body's Read minds the close, so
// WriteTo is hidden.
type steadyHTTP struct{ next aws.HTTPClient }

// Do implements aws.HTTPClient.
func (s steadyHTTP) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return s.next.Do(r)
}

// load takes credentials as all AWS tools do. An explicit profile goes before
// the keys in the environment.
func (e endpoint) load(ctx context.Context) (aws.Config, error) {
	var options []func(*config.LoadOptions) error
	if e.context.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(e.context.Profile))
	}
	region := e.context.Region
	if e.region != "" {
		region = e.region
	}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, &server.Error{
			Code: server.KindAuth, Op: "load AWS configuration of", Resource: "context " + e.context.Name, Err: err,
			Remedy: "aws configure list",
		}
	}
	cfg.BaseEndpoint = e.baseEndpoint(ctx, cfg)
	return cfg, nil
}

// baseEndpoint is the context's own URL, else what the profile's
// configuration names, else nil for AWS's.
func (e endpoint) baseEndpoint(ctx context.Context, cfg aws.Config) *string {
	if e.context.EndpointURL != "" {
		return &e.context.EndpointURL
	}
	for _, source := range cfg.ConfigSources {
		shared, ok := source.(config.SharedConfig)
		if !ok {
			continue
		}
		if url, found, err := shared.GetServiceBaseEndpoint(ctx, ec2.ServiceID); err == nil && found {
			return &url
		}
		if shared.BaseEndpoint != "" {
			return &shared.BaseEndpoint
		}
	}
	return nil
}

// staticKeys signs with one pair of keys.
func staticKeys(id, secret, token string) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(id, secret, token)
}

// ec2Client makes a client for the requests that go past the Manager.
func (a *App) ec2Client(ctx context.Context, e endpoint) (*ec2.Client, error) {
	cfg, err := a.config(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("make EC2 client: %w", err)
	}
	return ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint = cfg.BaseEndpoint }), nil
}
