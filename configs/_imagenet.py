"""Mean and standard deviation of ImageNet's red, green and blue in 0..1, for networks that were trained on ImageNet."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
