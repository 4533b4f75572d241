"""wordmask: words in, masks out. Training-free open-vocabulary segmentation with a frozen CLIP."""
