"""The U-Net and the Segment Anything models."""
