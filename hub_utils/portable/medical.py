"""What a model of patients' images is not, in the words that its card, its page and its API say alike."""

NOT_A_DEVICE = (
    "This model is a study of image classification. It must not be used to diagnose, to screen or to choose a "
    "treatment, nor to reassure or alarm anybody, neither alone nor as a second opinion."
)
