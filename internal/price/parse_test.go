package price

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
)

// entry is a product of the price list with its terms, in the list's form.
type entry struct {
	family     string
	attributes string
	onDemand   string // price dimensions
	reserved   string // offers
}

func (e entry) product(sku string) string {
	return fmt.Sprintf(`{"sku":%q,"productFamily":%q,"attributes":{%s}}`, sku, e.family, e.attributes)
}

func dimensionOf(unit, begin, end, usd string) string {
	return fmt.Sprintf(`"X.%s.%s":{"unit":%q,"beginRange":%q,"endRange":%q,"pricePerUnit":{"USD":%q}}`, unit, begin, unit, begin, end, usd)
}

const linux = `"regionCode":"eu-west-1","locationType":"AWS Region","operatingSystem":"Linux","tenancy":"Shared","preInstalledSw":"NA","capacitystatus":"Used","operation":"RunInstances"`

// catalogue is what a region's list has, and around it what must be left alone.
func catalogue() map[string]entry {
	return map[string]entry{
		"INST": {
			family: "Compute Instance", attributes: linux + `,"instanceType":"t3.micro"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.0114000000"),
			reserved: `"INST.A":{"priceDimensions":{` + dimensionOf("Hrs", "0", "Inf", "0.0071000000") + `},"termAttributes":{"LeaseContractLength":"1yr","PurchaseOption":"No Upfront","OfferingClass":"standard"}},
				"INST.B":{"priceDimensions":{` + dimensionOf("Quantity", "", "", "61") + `,` + dimensionOf("Hrs", "0", "Inf", "0.0000000000") + `},"termAttributes":{"LeaseContractLength":"1yr","PurchaseOption":"All Upfront","OfferingClass":"standard"}},
				"INST.C":{"priceDimensions":{` + dimensionOf("Hrs", "0", "Inf", "0.0050000000") + `},"termAttributes":{"LeaseContractLength":"3yr","PurchaseOption":"No Upfront","OfferingClass":"standard"}}`,
		},
		"OTHER":   {family: "Compute Instance", attributes: linux + `,"instanceType":"m5.large"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.1070000000")},
		"WINDOWS": {family: "Compute Instance", attributes: strings.Replace(linux, "Linux", "Windows", 1) + `,"instanceType":"t3.micro"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.0206000000")},
		"AWAY":    {family: "Compute Instance", attributes: strings.Replace(linux, "eu-west-1", "us-west-2", 1) + `,"instanceType":"t3.micro"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.0104000000")},
		"ZONE":    {family: "Compute Instance", attributes: strings.Replace(linux, "AWS Region", "AWS Local Zone", 1) + `,"instanceType":"t3.micro"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.0300000000")},
		"GP3":     {family: "Storage", attributes: `"regionCode":"eu-west-1","volumeApiName":"gp3","usagetype":"EU-EBS:VolumeUsage.gp3"`, onDemand: dimensionOf("GB-Mo", "0", "Inf", "0.0880000000")},
		"IOPS":    {family: "System Operation", attributes: `"regionCode":"eu-west-1","volumeApiName":"gp3","group":"EBS IOPS"`, onDemand: dimensionOf("IOPS-Mo", "0", "Inf", "0.0055000000")},
		"MIBS":    {family: "Provisioned Throughput", attributes: `"regionCode":"eu-west-1","volumeApiName":"gp3","group":"EBS Throughput"`, onDemand: dimensionOf("GiBps-mo", "0", "Inf", "45.0560000000")},
		"SNAP":    {family: "Storage Snapshot", attributes: `"regionCode":"eu-west-1","usagetype":"EU-EBS:SnapshotUsage"`, onDemand: dimensionOf("GB-Mo", "0", "Inf", "0.0500000000")},
		"ARCHIVE": {family: "Storage Snapshot", attributes: `"regionCode":"eu-west-1","usagetype":"EU-EBS:SnapshotArchiveStorage"`, onDemand: dimensionOf("GB-Mo", "0", "Inf", "0.0125000000")},
		"IPUSED":  {family: "", attributes: `"regionCode":"eu-west-1","group":"VPCPublicIPv4Address","usagetype":"EU-PublicIPv4:InUseAddress"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.0050000000")},
		"IPIDLE":  {family: "", attributes: `"regionCode":"eu-west-1","group":"VPCPublicIPv4Address","usagetype":"EU-PublicIPv4:IdleAddress"`, onDemand: dimensionOf("Hrs", "0", "Inf", "0.0050000000")},
		"OUT": {
			family: "Data Transfer", attributes: `"transferType":"AWS Outbound","toLocation":"External","fromRegionCode":"eu-west-1"`,
			onDemand: dimensionOf("GB", "0", "10240", "0.0900000000") + "," + dimensionOf("GB", "10240", "Inf", "0.0850000000"),
		},
		"FREE": {family: "Data Transfer", attributes: `"transferType":"AWS Outbound","toLocation":"External","fromLocation":"Global"`, onDemand: dimensionOf("GB", "0", "100", "0.0000000000")},
	}
}

// offerFile is the catalogue as a public offer file.
func offerFile() string {
	var products, onDemand, reserved []string
	for sku, e := range catalogue() {
		products = append(products, fmt.Sprintf("%q:%s", sku, e.product(sku)))
		onDemand = append(onDemand, fmt.Sprintf(`%q:{"%s.J":{"priceDimensions":{%s}}}`, sku, sku, e.onDemand))
		if e.reserved != "" {
			reserved = append(reserved, fmt.Sprintf(`%q:{%s}`, sku, e.reserved))
		}
	}
	return fmt.Sprintf(`{"formatVersion":"v1.0","offerCode":"AmazonEC2","publicationDate":"2027-01-02T03:04:05Z","products":{%s},"terms":{"OnDemand":{%s},"Reserved":{%s}},"attributesList":{}}`,
		strings.Join(products, ","), strings.Join(onDemand, ","), strings.Join(reserved, ","))
}

// listed is the catalogue as texts of GetProducts.
func listed() []string {
	var texts []string
	for sku, e := range catalogue() {
		reserved := ""
		if e.reserved != "" {
			reserved = `,"Reserved":{` + e.reserved + `}`
		}
		texts = append(texts, fmt.Sprintf(`{"product":%s,"serviceCode":"AmazonEC2","terms":{"OnDemand":{"%s.J":{"priceDimensions":{%s}}}%s},"publicationDate":"2027-01-02T03:04:05Z"}`,
			e.product(sku), sku, e.onDemand, reserved))
	}
	return texts
}

// rightFigures is what the catalogue has of eu-west-1.
var rightFigures = []string{
	"address idle hour 0.005+0.00 0-0", "address in-use hour 0.005+0.00 0-0",
	"egress internet GiB 0.085+0.00 10240-0", "egress internet GiB 0.09+0.00 0-10240",
	"instance m5.large hour 0.107+0.00 0-0", "instance t3.micro hour 0.0114+0.00 0-0",
	"reserved-1y-all-upfront t3.micro hour 0.00+61.00 0-0", "reserved-1y-no-upfront t3.micro hour 0.0071+0.00 0-0",
	"snapshot standard GiB-month 0.05+0.00 0-0", "volume gp3 GiB-month 0.088+0.00 0-0",
	"volume-iops gp3 IOPS-month 0.0055+0.00 0-0", "volume-throughput gp3 MiB/s-month 0.044+0.00 0-0",
}

func checkFigures(t *testing.T, list []Figure, want []string) {
	t.Helper()
	var got []string
	for _, f := range list {
		if f.Region != "eu-west-1" || f.Date != "2027-01-02" || f.Currency != "USD" || f.Source == "" {
			t.Errorf("figure %+v", f)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s+%s %d-%d", f.Kind, f.Item, f.Unit, f.Price, f.Upfront, f.FromGiB, f.ToGiB))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("figures are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOfferFile(t *testing.T) {
	list, err := parseOffer(strings.NewReader(offerFile()), "eu-west-1", "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	checkFigures(t, list, rightFigures)
	list, err = parseOffer(strings.NewReader(offerFile()), "eu-west-1", "test", map[string]bool{"t3.micro": true})
	if err != nil {
		t.Fatal(err)
	}
	checkFigures(t, list, slices.DeleteFunc(slices.Clone(rightFigures), func(s string) bool { return strings.Contains(s, "m5.large") }))
	for _, bad := range []string{"", "{", "[]", `{"products":[]}`, `{"products":{"A":1}}`, offerFile()[:900], `{"terms":{}}`, "null"} {
		if list, err := parseOffer(strings.NewReader(bad), "eu-west-1", "test", nil); err == nil {
			t.Errorf("%.40q has figures %v", bad, list)
		}
	}
}

// priceList is a Price List API that filters nothing, a page a text.
type priceList struct {
	texts []string
	asked []*pricing.GetProductsInput
	err   error
}

func (p *priceList) GetProducts(_ context.Context, in *pricing.GetProductsInput, _ ...func(*pricing.Options)) (*pricing.GetProductsOutput, error) {
	p.asked = append(p.asked, in)
	if p.err != nil {
		return nil, p.err
	}
	if len(p.asked) > 1 && in.NextToken == nil {
		return &pricing.GetProductsOutput{}, nil
	}
	k := 0
	_, _ = fmt.Sscan(aws.ToString(in.NextToken), &k)
	out := &pricing.GetProductsOutput{PriceList: p.texts[k : k+1]}
	if k+1 < len(p.texts) {
		out.NextToken = aws.String(fmt.Sprint(k + 1))
	}
	return out, nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestRefreshFromPriceListAPI(t *testing.T) {
	api := &priceList{texts: listed()}
	r := Refresher{Pricing: api, Now: time.Now, Log: quiet()}
	list, err := r.Refresh(t.Context(), "eu-west-1", []string{"t3.micro"})
	if err != nil {
		t.Fatal(err)
	}
	checkFigures(t, list, rightFigures)
	last := api.asked[len(api.asked)-1]
	var filters []string
	for _, f := range last.Filters {
		filters = append(filters, string(f.Type)+" "+*f.Field+"="+*f.Value)
	}
	want := "TERM_MATCH regionCode=eu-west-1, TERM_MATCH instanceType=t3.micro, TERM_MATCH operatingSystem=Linux, TERM_MATCH tenancy=Shared, TERM_MATCH preInstalledSw=NA, TERM_MATCH capacitystatus=Used"
	if got := strings.Join(filters, ", "); got != want || *last.ServiceCode != "AmazonEC2" {
		t.Errorf("asked %s for %s", *last.ServiceCode, got)
	}
}

// Without the right to ask the API the public files are read, and without
// either nothing is made up.
func TestRefreshFromPublicFiles(t *testing.T) {
	var paths []string
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		if strings.Contains(r.URL.Path, "/AmazonEC2/current/eu-west-1/") {
			_, _ = w.Write([]byte(offerFile()))
			return
		}
		_, _ = w.Write([]byte(`{"publicationDate":"2027-01-02T00:00:00Z","products":{},"terms":{}}`))
	}))
	t.Cleanup(ts.Close)
	api := &priceList{err: errors.New("AccessDeniedException")}
	r := Refresher{Pricing: api, HTTP: ts.Client(), OffersURL: ts.URL, Now: time.Now, Log: quiet()}
	list, err := r.Refresh(t.Context(), "eu-west-1", nil)
	if err != nil || len(paths) != 3 {
		t.Fatal(err, paths)
	}
	checkFigures(t, list, rightFigures)
	r.OffersURL = ts.URL + "/nothing/%zz"
	if list, err := r.Refresh(t.Context(), "eu-west-1", nil); err == nil || len(list) > 0 {
		t.Errorf("nothing was to be had, and came %v", list)
	}
}

// ownPrices is an EC2 with spot prices and reservations, some of no use.
type ownPrices struct{ fail error }

func (o ownPrices) DescribeSpotPriceHistory(_ context.Context, in *ec2.DescribeSpotPriceHistoryInput, _ ...func(*ec2.Options)) (*ec2.DescribeSpotPriceHistoryOutput, error) {
	if o.fail != nil {
		return nil, o.fail
	}
	price := func(zone, usd string, age time.Duration) ec2types.SpotPrice {
		return ec2types.SpotPrice{InstanceType: in.InstanceTypes[0], AvailabilityZone: &zone, SpotPrice: &usd, Timestamp: aws.Time(in.StartTime.Add(-age)), ProductDescription: "Linux/UNIX"}
	}
	return &ec2.DescribeSpotPriceHistoryOutput{SpotPriceHistory: []ec2types.SpotPrice{
		price("eu-west-1a", "0.003400", time.Hour), price("eu-west-1a", "0.009900", 9*time.Hour), price("eu-west-1b", "a lot", 0), price("eu-west-1b", "0", 0),
	}}, nil
}

func (o ownPrices) DescribeReservedInstancesOfferings(_ context.Context, in *ec2.DescribeReservedInstancesOfferingsInput, _ ...func(*ec2.Options)) (*ec2.DescribeReservedInstancesOfferingsOutput, error) {
	if o.fail != nil {
		return nil, o.fail
	}
	offering := func(payment ec2types.OfferingTypeValues, seconds int64, fixed float32, hour float64) ec2types.ReservedInstancesOffering {
		return ec2types.ReservedInstancesOffering{
			InstanceType: in.InstanceType, OfferingType: payment, Duration: &seconds, FixedPrice: &fixed, ProductDescription: "Linux/UNIX", CurrencyCode: "USD",
			RecurringCharges: []ec2types.RecurringCharge{{Amount: &hour, Frequency: "Hourly"}},
		}
	}
	return &ec2.DescribeReservedInstancesOfferingsOutput{ReservedInstancesOfferings: []ec2types.ReservedInstancesOffering{
		offering("No Upfront", yearSeconds, 0, 0.0065), offering("Partial Upfront", yearSeconds, 27.5, 0.0031), offering("Partial Upfront", 3*yearSeconds, 50, 0.002),
		offering("All Upfront", yearSeconds, 0, 0), offering("Heavy Utilization", yearSeconds, 62, 0.005),
	}}, nil
}

func TestRefreshFromEC2(t *testing.T) {
	r := Refresher{EC2: ownPrices{}, Now: func() time.Time { return time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC) }, Log: quiet()}
	list, err := r.Refresh(t.Context(), "eu-west-1", []string{"t3.micro"})
	if err != nil {
		t.Fatal(err)
	}
	checkFigures(t, list, []string{
		"reserved-1y-no-upfront t3.micro hour 0.0065+0.00 0-0", "reserved-1y-partial-upfront t3.micro hour 0.0031+27.50 0-0", "spot t3.micro hour 0.0034+0.00 0-0",
	})
	r.EC2 = ownPrices{fail: errors.New("InvalidAction")}
	if list, err := r.Refresh(t.Context(), "eu-west-1", []string{"t3.micro"}); err == nil || len(list) != 0 {
		t.Errorf("an endpoint that knows neither answers %v, %v", list, err)
	}
}

func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "prices")
	if list, err := ReadCache(dir, "eu-west-1"); err != nil || len(list) != 0 {
		t.Fatal(list, err)
	}
	figures, err := parseOffer(strings.NewReader(offerFile()), "eu-west-1", "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := WriteCache(dir, "eu-west-1", figures); err != nil {
			t.Fatal(err)
		}
	}
	list, err := ReadCache(dir, "eu-west-1")
	if err != nil {
		t.Fatal(err)
	}
	checkFigures(t, list, rightFigures)
	files, _ := os.ReadDir(dir)
	if len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
	for _, region := range []string{"../x", "", "a/b"} {
		if WriteCache(dir, region, nil) == nil {
			t.Errorf("%q is taken for a region", region)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "eu-west-1.json"), []byte(`{"version":1,"figures":[{"region":"eu-west-1","price":1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := ReadCache(dir, "eu-west-1"); err == nil {
		t.Errorf("a figure without a source is read: %v", list)
	}
}

func FuzzParseProduct(f *testing.F) {
	for _, text := range listed() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, _ := parseProduct(text, "eu-west-1", "test")
		sane(t, list)
	})
}

func FuzzParseOffer(f *testing.F) {
	f.Add([]byte(offerFile()))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := parseOffer(bytes.NewReader(data), "eu-west-1", "test", nil)
		sane(t, list)
	})
}

func FuzzParseCache(f *testing.F) {
	figures, _ := parseOffer(strings.NewReader(offerFile()), "eu-west-1", "test", nil)
	data, _ := json.Marshal(document{Version: 1, Figures: figures})
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := parseCache(data, "eu-west-1")
		sane(t, list)
	})
}

// sane checks what must hold of whatever was read, and that a book can take it.
func sane(t *testing.T, list []Figure) {
	t.Helper()
	for _, f := range list {
		if f.Price < 0 || f.Upfront < 0 || f.Region != "eu-west-1" || f.Kind == "" || f.Date == "" {
			t.Errorf("figure %+v", f)
		}
	}
	b, err := New(list...)
	if err != nil {
		t.Fatal(err)
	}
	bill := b.Month(Spec{
		Region: "eu-west-1", Type: "t3.micro", Addresses: 1, EgressGiB: 1 << 40, Snapshots: Snapshots{1, 1, 1 << 60},
		Volumes: []Volume{{Type: "gp3", GiB: 1 << 40, IOPS: 1 << 40, Throughput: 1 << 40}},
	})
	for _, total := range bill.Totals {
		if total.Month.Low < 0 || total.Month.High < total.Month.Low {
			t.Errorf("total %+v", total)
		}
	}
}
