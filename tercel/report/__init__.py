"""What a run is worth: evaluation against truth, summary.json, and the HTML report."""
